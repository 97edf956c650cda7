"""An environment with masks of legal actions, which refuses all others."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Moody(gymnasium.Env):
    """About half of the actions are legal, others each time. The reward is the mean index of the components.

    Args:
        sizes: options of each component; a single one makes the space Discrete.
        in_observation: the mask is a part of a Dict observation, not in the info.
        start: smallest value of each component.
    """

    def __init__(
        self, sizes: tuple[int, ...] = (5,), in_observation: bool = False, start: int = 0, render_mode: None = None
    ) -> None:
        self.sizes, self.in_observation, self.start, self.render_mode = sizes, in_observation, start, render_mode
        starts = [start] * len(sizes)
        several = spaces.MultiDiscrete(list(sizes), start=starts)
        self.action_space: Any = several if len(sizes) > 1 else spaces.Discrete(sizes[0], start=start)
        space, mask = spaces.Box(-1, 1, (3,)), spaces.MultiBinary(sum(sizes))
        self.observation_space = spaces.Dict(action_mask=mask, position=space) if in_observation else space
        self.firsts = np.cumsum([0, *sizes])[:-1]

    def told(self) -> tuple[Any, dict[str, Any]]:
        position = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        self.mask = self.np_random.random(sum(self.sizes)) < 0.5
        for first, size in zip(self.firsts, self.sizes, strict=True):
            self.mask[first + self.np_random.integers(size)] = True
        if self.in_observation:
            return {"action_mask": self.mask.astype(np.int8), "position": position}, {}
        return position, {"action_mask": self.mask}

    def best(self) -> float:
        """The largest reward that a legal action has now."""
        ends = self.firsts + np.array(self.sizes)
        return float(np.mean([np.flatnonzero(self.mask[a:b])[-1] for a, b in zip(self.firsts, ends, strict=True)]))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.told()

    def step(self, action):
        index = np.ravel(np.asarray(action)) - self.start
        assert self.mask[self.firsts + index].all(), f"{action} is illegal"
        self.t += 1
        observation, info = self.told()
        return observation, float(np.mean(index)), self.t % 7 == 0, self.t % 11 == 0, info
