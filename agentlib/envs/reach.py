"""Reach: a point in the plane that has to get to a goal, and a reward that says only whether it is there.

The point starts anywhere in the square from -1 to 1, and moves by up to .1 in each direction in a step; so it can be at
the goal in at most 20 steps of the 50 of an episode. The reward is 0 within .05 of the goal and -1 elsewhere; random
play comes there in few episodes.

What it is for: the smallest environment with goals, in the interface of Gymnasium-Robotics, for hindsight replay
(Andrychowicz et al. 2017).
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

STEP, NEAR = 0.1, 0.05


class Reach(gymnasium.Env[dict[str, NDArray[np.float32]], NDArray[np.float32]]):
    """Get to the goal. Observation: a Dict of where the point is, also as the achieved goal, and of the desired goal.

    Actions `(2,)` between -1 and 1. `info["is_success"]` says whether it is there.

    Args:
        render_mode: only `None`; there is nothing to see.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        plane = spaces.Box(-1.0, 1.0, (2,), np.float32)
        parts = ("observation", "achieved_goal", "desired_goal")
        self.observation_space: spaces.Dict = spaces.Dict(dict.fromkeys(parts, plane))  # type: ignore[assignment]
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.render_mode = render_mode
        self._point, self._goal = np.zeros(2, np.float32), np.zeros(2, np.float32)

    def compute_reward(self, achieved_goal: Any, desired_goal: Any, info: Any) -> Any:
        """0 where a goal `(..., 2)` is reached, -1 elsewhere, `(...)`."""
        distance = np.linalg.norm(np.asarray(achieved_goal) - np.asarray(desired_goal), axis=-1)
        return np.where(distance <= NEAR, 0.0, -1.0)

    def _observed(self) -> dict[str, NDArray[np.float32]]:
        return {
            "observation": self._point.copy(),
            "achieved_goal": self._point.copy(),
            "desired_goal": self._goal.copy(),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        super().reset(seed=seed)
        self._point, self._goal = self.np_random.uniform(-1.0, 1.0, (2, 2)).astype(np.float32)
        return self._observed(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        move = STEP * np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        self._point = np.clip(self._point + move, -1.0, 1.0).astype(np.float32)
        reward = float(self.compute_reward(self._point, self._goal, {}))
        return self._observed(), reward, False, False, {"is_success": reward == 0.0}
