"""The policy that fits an action space."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from torch import nn

from agentlib.backbones import Backbone
from agentlib.policies.base import StochasticPolicy
from agentlib.policies.continuous import GaussianPolicy
from agentlib.policies.discrete import BernoulliPolicy, CategoricalPolicy, MultiCategoricalPolicy
from agentlib.policies.state_dependent_noise import StateDependentNoisePolicy


def policy_for(
    action_space: spaces.Space[Any],
    backbone: Backbone | nn.Module,
    *,
    squashed: bool = False,
    state_dependent_std: bool = False,
    log_std: float = 0.0,
    use_sde: bool = False,
) -> StochasticPolicy:
    """A policy over a backbone that gives a distribution over the actions of a space.

    Args:
        action_space: Discrete, MultiDiscrete, MultiBinary or Box.
        backbone: any network with a `feature_dim`.
        squashed: of a Box; see `GaussianPolicy`, as for the following.
        state_dependent_std: of a Box.
        log_std: of a Box.
        use_sde: of a Box; see `StateDependentNoisePolicy`.

    Raises:
        ValueError: another space, or `use_sde` where it is no Box.
    """
    if use_sde and not isinstance(action_space, spaces.Box):
        raise ValueError(f"use_sde explores with real-valued actions, not in {action_space}: leave it out")
    if isinstance(action_space, spaces.Discrete):
        return CategoricalPolicy(backbone, int(action_space.n))
    if isinstance(action_space, spaces.MultiDiscrete):
        return MultiCategoricalPolicy(backbone, action_space.nvec)
    if isinstance(action_space, spaces.MultiBinary):
        return BernoulliPolicy(backbone, action_space.shape)
    if isinstance(action_space, spaces.Box) and use_sde:
        return StateDependentNoisePolicy(backbone, action_space, squashed, log_std)
    if isinstance(action_space, spaces.Box):
        return GaussianPolicy(backbone, action_space, squashed, state_dependent_std, log_std)
    raise ValueError(
        f"no policy acts in {action_space}: wrap the environment so that its action space is one of Discrete, "
        "MultiDiscrete, MultiBinary and Box"
    )
