"""Parts of the learners of a policy and critics from replay: checks, policies, targets, values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.core import Clock, Target
from agentlib.experience import Transition
from agentlib.learners.actor_critic.settings import RealValued
from agentlib.policies import Critics
from agentlib.policies.base import is_policy, require_no_memory
from agentlib.policies.critics import CriticDropout


def require_bounded(learner: str, space: spaces.Space[Any]) -> spaces.Box:
    """The action space, if it is a Box with finite bounds.

    Raises:
        ValueError: it is another one; the message names learners that fit.
    """
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"{learner} needs real-valued actions, and this environment has {space}. Learners that fit: dqn, ppo"
            + ", discrete_sac" * isinstance(space, spaces.Discrete)
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
        raise ValueError(
            f"{learner} needs finite bounds of the actions, and this environment has {space}: wrap it in "
            "gymnasium.wrappers.RescaleAction, or clip its actions and give it an action space with bounds"
        )
    return space


def require_squashed(learner: str, policy: Any) -> None:
    """Raises ValueError for a policy with memory, or whose actions are not squashed into finite bounds."""
    require_no_memory(policy, learner)
    require_bounded(learner, policy.action_space)
    if not policy.squashed:
        name = type(policy).__name__
        raise ValueError(f"{learner} needs a policy whose actions are squashed: {name}(..., squashed=True)")


def policy_on(learner: str, backbone: nn.Module, facts: Any, kind: type[Any], make: Callable[..., Any]) -> Any:
    """A policy of a kind that is made on the backbone for `action_space`; or the one that is given in its place.

    Raises:
        ValueError: actions without finite bounds, a backbone with memory, or a policy of another kind.
    """
    actions = require_bounded(learner, facts.action_space)
    require_no_memory(backbone, learner)
    policy = backbone if is_policy(backbone) else make(backbone=backbone, action_space=actions, squashed=True)
    if not isinstance(policy, kind):
        found = type(policy).__name__
        raise ValueError(f"{learner} goes on from an agent whose policy is a {kind.__name__}, not a {found}")
    return policy


def critics_for(config: RealValued, facts: Any, policy: nn.Module, n_quantiles: int | None = None) -> Critics:
    """New critics for the spaces of a problem, of the kind that the config says; they share the policy's statistics."""
    return Critics.for_spaces(
        facts.observation_space,
        facts.action_space,
        config.n_critics,
        config.net_arch if config.qf_arch is None else config.qf_arch,
        n_quantiles,
        dropout_rate=config.dropout_rate,
        norm=config.critic_norm,
        like=policy if config.normalize else None,
    )


def target_of(network: nn.Module, config: RealValued) -> Target | None:
    """The network that follows, if the config wants one; its dropout, if any, is on."""
    if not config.target_networks:
        return None
    target = Target(network, tau=config.tau)
    for module in target.modules():
        if isinstance(module, CriticDropout):
            module.always = True
    return target


def values_with_next(
    critics: Critics, target: Target | None, batch: Transition, action: Tensor, next_action: Tensor
) -> tuple[Tensor, Tensor]:
    """Q_i(s, a), and Q'_i(s', a') without gradients, each `(n, B)`, of quantiles `(n, B, m)`; actions are `(B, d)`.

    Without a target both come of one pass of the critics over both batches (CrossQ).
    """
    if target is None:
        values, next_values = critics.joint((batch.observation, action), (batch.next_observation, next_action))
        return values, next_values.detach()
    with torch.no_grad():
        next_values = target(batch.next_observation, next_action)
    return critics(batch.observation, action), next_values


def when_policy_is_due(learner: Any, clock: Clock) -> None:
    """`before_update` of a learner with `policy_delay`: its phase is whether the policy learns in the coming update."""
    learner.phase = (int(clock.updates) + 1) % learner.config.policy_delay == 0


def value_of_policy(learner: Any, observation: Any) -> Tensor:
    """`value` of a learner with critics of real-valued actions: the values `(B,)` of the policy's best actions."""
    return learner.critics.of_policy(learner.policy, observation)  # type: ignore[no-any-return]
