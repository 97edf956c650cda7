"""From a backbone to the classifier that a method needs, and the ratio of densities."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from agentlib.backbones import WithContext
from agentlib.data.domains import Balance, share_in_data
from agentlib.families.domains import DomainFacts
from agentlib.metrics.density_ratio import importance_weights
from agentlib.policies import CategoricalPolicy, RotationPolicy


def policy_of(method: str, backbone: nn.Module, facts: DomainFacts) -> CategoricalPolicy:
    """A classifier; of "arm" with contexts, of "ttt" with a head for quarter turns.

    Raises:
        ValueError: no square images, for "ttt".
    """
    kind, shape = CategoricalPolicy, facts.space.shape
    if method == "ttt":
        kind = RotationPolicy
        if len(shape) < 3 or shape[-1] != shape[-2]:
            raise ValueError(f"ttt turns square images, and these examples are {shape}: crop or pad them")
    policy = kind(WithContext(backbone) if method == "arm" else backbone, len(facts.train.classes))
    policy.observe(facts.train.x)
    return policy


def ratio_of(ratio: Literal["logistic", "ulsif", "gaussian"], balance: Balance, facts: DomainFacts) -> Tensor:
    """The weight of each training example `(N,)`, such that batches weigh as the target.

    Raises:
        ValueError: no target, or no finite ratio.
    """
    if not len(facts.target_x):
        raise ValueError("importance weighs the sources by a target, and there is none: give target=")
    source, target = facts.train.x.flatten(1).float(), facts.target_x.flatten(1).float()
    return importance_weights(source, target, ratio) * share_in_data(facts.train, facts.domain, balance)
