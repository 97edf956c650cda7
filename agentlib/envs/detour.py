"""Detour: a wall across the way, to be passed on the left or on the right. Half to the left and half to the right is a
crash: it tells policies that hold two ways apart from those that average them.

A point moves in the plane by at most 0.2 in each direction per step, from below, near (0, -0.9), to the goal, within
0.15 of (0, 0.9). Reward: 1 at the goal, which ends the episode; touching the wall, |x| < 0.5 and |y| < 0.22, ends it
with nothing. The scripted expert goes straight up to y = -0.5 and then, at the last moment, to the left or to the
right, as often the one as the other: there its mean action leads into the wall, and a step that is lost cannot be made
up for. `info` has `side`, "left" or "right", once the wall is beside or behind.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

STEP = 0.2
"""The way of an action of length 1 in one direction."""
START_Y, JITTER = -0.9, 0.05
WALL_X, WALL_Y = 0.5, 0.22
GOAL, GOAL_RADIUS = (0.0, 0.9), 0.15
DECISION_Y = -0.5
"""Where the expert turns."""
PIXELS = 200

Floats = NDArray[np.float32]


class Detour(gymnasium.Env[Floats, Floats]):
    """Get past the wall. Observation: position `(2,)`; action: `(2,)` between -1 and 1, times 0.2 the move.

    Args:
        render_mode: `None` or `"rgb_array"` (`(200, 200, 3)`, uint8).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium reads it from the class)

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        self._place = np.array([self.np_random.uniform(-JITTER, JITTER), START_Y], np.float32)
        return self._place.copy(), self._info()

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        move = STEP * np.clip(np.asarray(action, np.float32), -1.0, 1.0)
        self._place = np.clip(self._place + move, -1.0, 1.0).astype(np.float32)
        crashed = bool(abs(self._place[0]) < WALL_X and abs(self._place[1]) < WALL_Y)
        arrived = bool(np.hypot(*(self._place - GOAL)) <= GOAL_RADIUS)
        return self._place.copy(), float(arrived), crashed or arrived, False, self._info()

    def _info(self) -> dict[str, Any]:
        if self._place[1] > -WALL_Y and abs(self._place[0]) >= WALL_X:
            self._side = "left" if self._place[0] < 0 else "right"
        elif self._place[1] <= -WALL_Y:
            self._side = ""
        return {"side": self._side} if self._side else {}

    def render(self) -> NDArray[np.uint8] | None:
        if self.render_mode is None:
            return None
        ticks = np.linspace(-1.0, 1.0, PIXELS)
        x, y = np.meshgrid(ticks, -ticks)  # the first row is the top
        frame = np.full((PIXELS, PIXELS, 3), 255, np.uint8)
        frame[(np.abs(x) < WALL_X) & (np.abs(y) < WALL_Y)] = (90, 90, 90)
        frame[np.hypot(x - GOAL[0], y - GOAL[1]) <= GOAL_RADIUS] = (150, 210, 150)
        frame[np.hypot(x - self._place[0], y - self._place[1]) <= 0.04] = (0, 114, 178)
        return frame
