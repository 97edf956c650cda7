"""Corridor: a combination lock, whose only reward is at its end.

In each of n cells one of two actions leads on, and the other one back to the first cell. Which one is fixed, and has
no pattern that a network could guess. Reaching the end is worth 1 and ends the episode; nothing else is worth anything.
The best return is 1, after n steps; random play needs 2^(n+1) - 2 steps on average, 2,046 in the 10 cells of
`agentlib/Corridor-v0`, whose episodes are cut off after 50.

With `forgiving=True` the other action leads nowhere: random play then needs 2n steps, and the way back from the reward
is all that is hard.

What it is for: the reward is seen rarely, and has to be carried back cell by cell. In the family of the chains of
Koenig and Simmons (1993) and the blind cliffwalk of Schaul et al. (2016).
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from agentlib.core.numbers import whole


class Corridor(gymnasium.Env[np.int64, np.int64]):
    """Find the way through n cells. Observation: the number of the cell; actions: 0 and 1.

    Args:
        n: number of cells.
        forgiving: a wrong action leaves you where you are, and not in the first cell.
        render_mode: only `None`; there is nothing to see.

    Raises:
        ValueError: `n` is no whole number from 1.
    """

    def __init__(self, n: int = 10, forgiving: bool = False, render_mode: str | None = None) -> None:
        n = whole("n", n, 1)
        self.observation_space = spaces.Discrete(n + 1)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode
        self.right = np.random.default_rng(0).integers(2, size=n)
        """The action that leads on, in each cell."""
        self._forgiving = forgiving
        self._cell = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        self._cell = 0
        return np.int64(0), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        if action == self.right[self._cell]:
            self._cell += 1
        elif not self._forgiving:
            self._cell = 0
        solved = self._cell == len(self.right)
        return np.int64(self._cell), float(solved), solved, False, {}
