"""Dials: several choices at once, too many to number them all.

The observation says which of n digits each of k dials should show, and an action sets all dials at once. The reward is
the share of dials that are right, and new digits are wanted. The best action is the observation itself, worth 1 in each
of the 20 steps of `agentlib/Dials-v0`; random play gets 20 / n. With its 6 dials of 7 digits there are 7^6 = 117,649
actions, but only 42 values to learn where each dial has a branch of its own.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.numbers import whole

Digits = NDArray[np.int64]


class Dials(gymnasium.Env[Digits, Digits]):
    """Set all dials to the digits that are wanted. It never terminates.

    Args:
        dials: how many dials.
        digits: how many digits each has.
        render_mode: only `None`; there is nothing to see.

    Raises:
        ValueError: `dials` is no whole number from 1, or `digits` none from 2.
    """

    def __init__(self, dials: int = 6, digits: int = 7, render_mode: str | None = None) -> None:
        dials, digits = whole("dials", dials, 1), whole("digits", digits, 2)
        self.observation_space = spaces.MultiDiscrete([digits] * dials)
        self.action_space = spaces.MultiDiscrete([digits] * dials)
        self.render_mode = render_mode
        self._dials, self._digits = dials, digits

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Digits, dict[str, Any]]:
        super().reset(seed=seed)
        return self._next(), {}

    def step(self, action: Digits) -> tuple[Digits, float, bool, bool, dict[str, Any]]:
        reward = float((np.asarray(action) == self._wanted).mean())
        return self._next(), reward, False, False, {}

    def _next(self) -> Digits:
        self._wanted = self.np_random.integers(self._digits, size=self._dials)
        return self._wanted.copy()
