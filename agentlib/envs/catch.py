"""Catch: a small pixel environment, fast enough that a convolutional Q-network learns it on one core in minutes.

Balls fall one by one through a grid of 12 x 12 cells, one row per step, drifting by -1, 0 or 1 column per step and
bouncing off the side walls. The paddle, two cells wide on the bottom row, moves by one column per step. Reward: 1 for a
caught ball, after which the next one falls; -1 for a missed one, which ends the episode. In the 100 steps of
`agentlib/Catch-v0` ten balls fall: the best return is 10, which the scripted expert always gets; random play gets -0.8.

The observation is one grey frame `(36, 36)`, uint8, each cell 3 x 3 pixels; 36 is the least that the Nature CNN takes.
The ball leaves a dim trail in the cell where it was one step ago, so that one frame holds the whole state. Without it
(`trail=False`) the drift is hidden, and two frames or memory are needed.
`gymnasium.wrappers.FrameStackObservation(env, 4)` gives the channel-first stack of Atari preprocessing, `(4, 36, 36)`.

In the family of bsuite's `catch` (Osband et al., 2020), which is one ball, straight down, on 10 x 5 cells.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

CELLS = 12
"""Rows, and columns, of the grid."""
PIXELS = 3
"""Height, and width, of a cell in the frame."""
BALL, PADDLE, TRAIL = 255, 192, 96
"""Grey values; the background is 0."""

Frame = NDArray[np.uint8]


class Catch(gymnasium.Env[Frame, np.int64]):
    """Catch the falling balls. Actions: 0 left, 1 stay, 2 right.

    Args:
        trail: draw where the ball was one step ago.
        render_mode: `None` or `"rgb_array"` (`(288, 288, 3)`, uint8).
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium reads it from the class)

    def __init__(self, trail: bool = True, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0, 255, (CELLS * PIXELS, CELLS * PIXELS), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.render_mode = render_mode
        self._trail = trail

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        super().reset(seed=seed)
        self._paddle = int(self.np_random.integers(CELLS - 1))  # its left cell
        self._drop()
        return self._frame(), {}

    def step(self, action: np.int64) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        self._paddle = min(max(self._paddle + int(action) - 1, 0), CELLS - 2)
        self._fall()
        reward, missed = 0.0, False
        if self._row == CELLS - 1:
            missed = not self._paddle <= self._column <= self._paddle + 1
            reward = -1.0 if missed else 1.0
            if not missed:
                self._drop()
        return self._frame(), reward, missed, False, {}

    def render(self) -> NDArray[np.uint8] | None:
        if self.render_mode is None:
            return None
        large = self._frame().repeat(8, axis=0).repeat(8, axis=1)  # (288, 288)
        return np.stack([large] * 3, axis=-1)

    def _drop(self) -> None:
        """Puts a new ball on the second row, so that its trail on the first tells its drift."""
        self._row, self._column = 0, int(self.np_random.integers(CELLS))
        self._drift = int(self.np_random.integers(-1, 2))
        self._fall()

    def _fall(self) -> None:
        self._before = self._column
        self._row += 1
        self._column += self._drift
        if not 0 <= self._column < CELLS:
            self._drift = -self._drift
            self._column += 2 * self._drift

    def _frame(self) -> Frame:
        frame = np.zeros((CELLS * PIXELS, CELLS * PIXELS), np.uint8)
        if self._trail:
            _fill(frame, self._row - 1, self._before, TRAIL)
        _fill(frame, CELLS - 1, self._paddle, PADDLE, width=2)
        _fill(frame, self._row, self._column, BALL)
        return frame


def _fill(frame: Frame, row: int, column: int, value: int, width: int = 1) -> None:
    top, left = row * PIXELS, column * PIXELS
    frame[top : top + PIXELS, left : left + width * PIXELS] = value
