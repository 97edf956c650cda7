"""One of several environments in each episode: domain randomization (Tobin et al. 2017, arXiv:1703.06907).

An agent that has met many simulators takes the world for one more of them. It is not told which it is in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np


class Variants(gymnasium.Env[Any, Any]):
    """In each episode one of these environments, drawn at random; `info["variant"]` of `reset` is its number.

    Args:
        envs: environments with the same observations and actions.
        shares: of the episodes that each gets, up to a common factor; by default all get as many.

    Raises:
        ValueError: no environment, spaces that differ, or shares that are no shares.
    """

    def __init__(self, envs: Sequence[gymnasium.Env[Any, Any]], shares: Sequence[float] | None = None) -> None:
        self.envs = list(envs)
        if not self.envs:
            raise ValueError("there is no environment to draw: give one at least")
        first = self.envs[0]
        for number, env in enumerate(self.envs):
            if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
                raise ValueError(f"environment {number} differs from the first in its observations or actions")
        weights = np.ones(len(self.envs)) if shares is None else np.asarray(shares, np.float64)
        if weights.shape != (len(self.envs),) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            n = len(self.envs)
            raise ValueError(f"shares are one number of 0 or more for each of {n} environments, not {shares}")
        self.shares, self.variant = weights / weights.sum(), 0
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.metadata, self.render_mode = first.metadata, first.render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.variant = int(self.np_random.choice(len(self.envs), p=self.shares))
        own = int(self.np_random.integers(2**31))
        observation, info = self.envs[self.variant].reset(seed=own, options=options)
        return observation, {**info, "variant": self.variant}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return self.envs[self.variant].step(action)

    def render(self) -> Any:
        return self.envs[self.variant].render()

    def close(self) -> None:
        for env in self.envs:
            env.close()
