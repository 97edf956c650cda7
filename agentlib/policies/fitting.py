"""The policy that fits an action space."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from torch import nn

from agentlib.backbones import Backbone
from agentlib.policies.base import StochasticPolicy
from agentlib.policies.continuous import GaussianPolicy
from agentlib.policies.discrete import BernoulliPolicy, CategoricalPolicy, MultiCategoricalPolicy


def policy_for(
    action_space: spaces.Space[Any],
    backbone: Backbone | nn.Module,
    *,
    squashed: bool = False,
    state_dependent_std: bool = False,
    log_std: float = 0.0,
) -> StochasticPolicy:
    """A policy over a backbone that gives a distribution over the actions of a space.

    Args:
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        backbone: any network with a `feature_dim`.
        squashed: of a Box; see `GaussianPolicy`, as for the following.
        state_dependent_std: of a Box.
        log_std: of a Box.

    Raises:
        ValueError: another space.
    """
    if isinstance(action_space, spaces.Discrete):
        return CategoricalPolicy(backbone, int(action_space.n))
    if isinstance(action_space, spaces.MultiDiscrete):
        return MultiCategoricalPolicy(backbone, action_space.nvec)
    if isinstance(action_space, spaces.MultiBinary):
        return BernoulliPolicy(backbone, action_space.shape)
    if isinstance(action_space, spaces.Box):
        return GaussianPolicy(backbone, action_space, squashed, state_dependent_std, log_std)
    raise ValueError(
        f"no policy acts in {action_space}: wrap the environment so that its action space is one of Discrete, "
        "MultiDiscrete, MultiBinary and Box"
    )
