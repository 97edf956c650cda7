"""Exploring with real-valued actions: noise on them, or the policy's own distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from agentlib.core.schedules import Clock
from agentlib.policies.acting import decide


class SampledActor:
    """Actions drawn from a policy's distribution, always by its present weights; without memory.

    Args:
        policy: as `agentlib.policies` has them, with a distribution.
        observation_space: of one environment.
        seed: of its own generator.
    """

    def __init__(self, policy: nn.Module, observation_space: spaces.Space[Any], seed: int = 0) -> None:
        self.policy, self.space = policy, observation_space
        self.generator = np.random.default_rng([seed, 3])

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(B, ...)` for a batch of observations."""
        seed = int(self.generator.integers(2**63))
        return decide(self.policy, self.space, observation, seed=seed, mask=mask)[0]

    def state(self) -> dict[str, Any]:
        """The generator's state, for a checkpoint."""
        return dict(self.generator.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.generator.bit_generator.state = state


class ActionNoise:
    """Uniformly random actions at the start, then the actor's with normally distributed noise, cut to the bounds.

    Args:
        action_space: a Box with finite bounds.
        num_envs: environments that act side by side.
        noise: standard deviation of the noise, in units of half the range between the bounds.
        random_steps: number of environment steps at the start in which all actions are random.
        seed: of its own generator.
    """

    def __init__(
        self, action_space: spaces.Box, num_envs: int = 1, noise: float = 0.0, random_steps: int = 0, seed: int = 0
    ) -> None:
        self.space, self.num_envs, self.noise, self.random_steps = action_space, num_envs, noise, random_steps
        self.low, self.high = action_space.low, action_space.high
        self.generator = np.random.default_rng([seed, 1])

    def __call__(
        self,
        actor: Callable[..., NDArray[Any]],
        observation: Any,
        clock: Clock,
        mask: NDArray[np.bool_] | None = None,
    ) -> NDArray[Any]:
        """Actions `(num_envs, *shape)` for batched observations, within the bounds."""
        shape = (self.num_envs, *self.space.shape)
        if clock.steps < self.random_steps:
            return self.generator.uniform(self.low, self.high, shape).astype(np.float32)
        action = actor(observation)
        if not self.noise:
            return action
        spread = self.noise * (self.high - self.low) / 2.0
        return np.clip(action + spread * self.generator.standard_normal(shape), self.low, self.high).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """The generator's state, for a checkpoint."""
        return dict(self.generator.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.generator.bit_generator.state = state
