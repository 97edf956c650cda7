"""Exploring with real-valued actions: noise on them, or the policy's own distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from agentlib.core.numbers import whole
from agentlib.core.schedules import Clock
from agentlib.core.source import Diverged
from agentlib.core.spaces import finite_sum
from agentlib.policies.acting import Among, GreedyActor, decide


class SampledActor(GreedyActor):
    """Actions drawn from a policy's distribution, always by its present weights; without memory.

    Real numbers that are not squashed are not cut to their bounds.

    Args:
        policy: as `agentlib.policies` has them, with a distribution.
        observation_space: of one environment.
        seed: of its own generator.
    """

    generator: np.random.Generator
    among: Among | None = None
    """Where others act for the rest of the environments, the rows that this one acts for; it draws as one for all."""

    def __init__(self, policy: nn.Module, observation_space: spaces.Space[Any], seed: int = 0) -> None:
        super().__init__(policy, observation_space)
        self.generator = np.random.default_rng([whole("seed", seed), 3])

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(B, ...)` for a batch of observations, among the legal ones if a `mask (B, A)` is given."""
        among, policy = self.among, cast(Any, self.policy)
        shortcut = self._shortcut(observation, None if among is None else among.size)
        if shortcut is None:  # torch draws other numbers than numpy: so one that acts for all decides, too
            seed = int(self.generator.integers(2**63))
            return decide(policy, self.space, observation, seed=seed, mask=mask, among=among)[0]
        output = shortcut.output(observation, with_log_std=shortcut.log_std is not None)
        if shortcut.policy is None:  # as `agentlib.policies.discrete.sample_logits` does it
            scores = output + self.generator.gumbel(size=output.shape)
            return (scores if mask is None else np.where(mask, scores, -np.inf)).argmax(1)  # type: ignore[no-any-return]
        if shortcut.log_std is None:
            mean, log_std = output, policy.log_std.detach().numpy()
        else:
            mean, log_std = np.split(output, 2, axis=1)
        action: NDArray[Any] = mean + self.generator.standard_normal(mean.shape, np.float32) * np.exp(log_std)
        return (shortcut.squash(action) if policy.squashed else action).reshape(-1, *policy.bounds.shape)


class ActionNoise:
    """Uniformly random actions at the start, then the actor's with noise, cut to the bounds.

    The noise is normal and drawn for each step; or it drifts through an episode, from 0 on, as Ornstein and Uhlenbeck
    have it: x <- x - THETA x DT + noise sqrt(DT) e, with a normal e. The numbers are Stable-Baselines3's.

    Args:
        action_space: a Box with finite bounds.
        num_envs: environments that act side by side.
        noise: standard deviation of the noise, in units of half the range between the bounds.
        random_steps: number of environment steps at the start in which all actions are random.
        seed: of its own generator.
        kind: "normal", or "ornstein-uhlenbeck".
    """

    THETA, DT = 0.15, 0.01

    def __init__(
        self,
        action_space: spaces.Box,
        num_envs: int = 1,
        noise: float = 0.0,
        random_steps: int = 0,
        seed: int = 0,
        kind: Literal["normal", "ornstein-uhlenbeck"] = "normal",
    ) -> None:
        if kind not in ("normal", "ornstein-uhlenbeck"):
            raise ValueError(f'noise on actions is "normal" or "ornstein-uhlenbeck", not {kind!r}')
        self.space, self.num_envs, self.noise, self.random_steps = action_space, num_envs, noise, random_steps
        self.low, self.high, self.drifts = action_space.low, action_space.high, kind != "normal"
        self.generator = np.random.default_rng([whole("seed", seed), 1])
        self.begin()

    def begin(self, where: NDArray[np.bool_] | None = None) -> None:
        """New episodes in the environments `where` (all by default): noise that drifts starts at 0."""
        if where is None:
            self.drift = np.zeros((self.num_envs, *self.space.shape))
        else:
            self.drift[where] = 0.0

    def __call__(
        self,
        actor: Callable[..., NDArray[Any]],
        observation: Any,
        clock: Clock,
        mask: NDArray[np.bool_] | None = None,
    ) -> NDArray[Any]:
        """Actions `(num_envs, *shape)` for batched observations, within the bounds.

        Raises:
            Diverged: the actor's are not finite.
        """
        shape = (self.num_envs, *self.space.shape)
        if clock.steps < self.random_steps:
            return self.generator.uniform(self.low, self.high, shape).astype(np.float32)
        action = actor(observation)
        if not finite_sum(action) and not np.isfinite(action).all():
            raise Diverged.at(clock, f"the policy chose the action {action.tolist()}")
        if not self.noise:
            return action
        spread = self.noise * (self.high - self.low) / 2.0
        noise = self.generator.standard_normal(shape)
        if self.drifts:
            self.drift = self.drift * (1.0 - self.THETA * self.DT) + self.noise * np.sqrt(self.DT) * noise
            spread, noise = (self.high - self.low) / 2.0, self.drift
        return np.clip(action + spread * noise, self.low, self.high).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """The generator's state and the drift, for a checkpoint."""
        return {"generator": dict(self.generator.bit_generator.state), "drift": self.drift.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.generator.bit_generator.state, self.drift = state["generator"], np.array(state["drift"])
