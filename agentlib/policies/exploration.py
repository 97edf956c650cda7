"""How actions are varied while learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.schedules import Clock, Schedule, at
from agentlib.core.spaces import choices


def random_actions(
    generator: np.random.Generator,
    sizes: Sequence[int],
    count: int,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Uniformly random legal options of each component, `(count, D)`.

    Args:
        generator: what draws.
        sizes: the number of options of each of the D components.
        count: how many actions.
        mask: `(count, sum(sizes))`, true where an option is legal; at least one must be, in each component.
    """
    if mask is None:
        return generator.integers(sizes, size=(count, len(sizes)))
    # The largest of equal random numbers is as likely at each of the legal options.
    ranks = np.where(mask, generator.random(mask.shape), -1.0)
    ends = np.cumsum(sizes)
    return np.stack([ranks[:, end - size : end].argmax(1) for size, end in zip(sizes, ends, strict=True)], 1)


class EpsilonGreedy:
    """A uniformly random action with probability epsilon, else the actor's.

    Each environment draws for itself; where all of them draw a random action, the actor is not asked at all, except one
    with memory, which has to see everything (`always_asked`).

    Args:
        action_space: Discrete or MultiDiscrete; actions are indices from 0.
        num_envs: environments that act side by side.
        epsilon: a number or a schedule.
        random_steps: only random actions for so many environment steps.
        seed: of its own generator.

    Raises:
        TypeError: the action space is of another kind.
    """

    def __init__(
        self,
        action_space: spaces.Space[Any],
        num_envs: int = 1,
        epsilon: Schedule = 0.05,
        random_steps: int = 0,
        seed: int = 0,
    ) -> None:
        self.sizes, self.num_envs = choices(action_space), num_envs
        self.is_discrete = isinstance(action_space, spaces.Discrete)
        if not self.sizes:
            raise TypeError(f"EpsilonGreedy chooses among Discrete or MultiDiscrete actions, not {action_space}")
        self.epsilon, self.random_steps = epsilon, random_steps
        self.generator = np.random.default_rng([seed, 1])

    def rate(self, clock: Clock) -> float:
        """The share of random actions now."""
        return 1.0 if clock.steps < self.random_steps else float(at(self.epsilon, clock))

    def __call__(
        self,
        actor: Callable[..., NDArray[Any]],
        observation: Any,
        clock: Clock,
        mask: NDArray[np.bool_] | None = None,
    ) -> NDArray[Any]:
        """Actions `(num_envs,)`, of several components `(num_envs, D)`, for batched observations.

        Where a `mask (num_envs, A)` of legal actions is given, only these are drawn, and the actor is told of it.
        """
        masks = () if mask is None else (mask,)
        if getattr(actor, "always_asked", False):
            greedy = actor(observation, *masks)
            random = self.generator.random(self.num_envs) < self.rate(clock)
            return np.where(random if self.is_discrete else random[:, None], self._random(mask), greedy)
        if self.num_envs == 1:  # the same, without the cost of arrays of one
            return self._random(mask) if self.generator.random() < self.rate(clock) else actor(observation, *masks)
        random = self.generator.random(self.num_envs) < self.rate(clock)
        if random.all():
            return self._random(mask)
        actions = actor(observation, *masks)
        if random.any():
            actions = np.where(random if self.is_discrete else random[:, None], self._random(mask), actions)
        return actions

    def _random(self, mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        if self.is_discrete and mask is None:
            return self.generator.integers(self.sizes[0], size=self.num_envs)
        actions = random_actions(self.generator, self.sizes, self.num_envs, mask)
        return actions[:, 0] if self.is_discrete else actions

    def state(self) -> dict[str, Any]:
        """The generator's state, for a checkpoint."""
        return dict(self.generator.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.generator.bit_generator.state = state
