"""How actions are varied while learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.backbones.schedules import Clock, Schedule, at


class EpsilonGreedy:
    """A uniformly random action with probability epsilon, else the actor's.

    Each environment draws for itself; where all of them draw a random action, the actor is not asked at all, except one
    with memory, which has to see everything (`always_asked`).

    Args:
        action_space: Discrete; actions are indices from 0.
        num_envs: environments that act side by side.
        epsilon: a number or a schedule.
        random_steps: only random actions for so many environment steps.
        seed: of its own generator.
    """

    def __init__(
        self,
        action_space: spaces.Discrete,
        num_envs: int = 1,
        epsilon: Schedule = 0.05,
        random_steps: int = 0,
        seed: int = 0,
    ) -> None:
        self.n_actions, self.num_envs = int(action_space.n), num_envs
        self.epsilon, self.random_steps = epsilon, random_steps
        self.generator = np.random.default_rng([seed, 1])

    def rate(self, clock: Clock) -> float:
        """The share of random actions now."""
        return 1.0 if clock.steps < self.random_steps else float(at(self.epsilon, clock))

    def __call__(self, actor: Callable[[Any], NDArray[Any]], observation: Any, clock: Clock) -> NDArray[Any]:
        """Actions `(num_envs,)` for batched observations."""
        if getattr(actor, "always_asked", False):
            greedy = actor(observation)
            random = self.generator.random(self.num_envs) < self.rate(clock)
            return np.where(random, self.generator.integers(self.n_actions, size=self.num_envs), greedy)
        if self.num_envs == 1:  # the same, without the cost of arrays of one
            if self.generator.random() < self.rate(clock):
                return self.generator.integers(self.n_actions, size=1)
            return actor(observation)
        random = self.generator.random(self.num_envs) < self.rate(clock)
        if random.all():
            return self.generator.integers(self.n_actions, size=self.num_envs)
        actions = actor(observation)
        if random.any():
            actions = np.where(random, self.generator.integers(self.n_actions, size=self.num_envs), actions)
        return actions

    def state(self) -> dict[str, Any]:
        """The generator's state, for a checkpoint."""
        return dict(self.generator.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.generator.bit_generator.state = state
