"""Dials: several choices at once, too many to number them all.

Each of k dials shows one of n digits, and has a digit that is wanted. An action turns every dial at once, dial i by
a_i digits (beyond n - 1 it starts again at 0); the reward is the share of dials that then show what was wanted, and new
digits are wanted. The best action is a_i = (wanted_i - shown_i) mod n, worth 1 in each of the 20 steps of
`agentlib/Dials-v0`; random play gets 20 / n. With its 6 dials of 7 digits there are 7^6 = 117,649 actions, but only 42
values to learn where each dial has a branch of its own.

The observation is `MultiDiscrete([n] * 2k)`: the digits shown, then those that are wanted.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Digits = NDArray[np.int64]


class Dials(gymnasium.Env[Digits, Digits]):
    """Turn all dials to the digits that are wanted. It never terminates.

    Args:
        dials: how many dials.
        digits: how many digits each has.
        render_mode: only `None`; there is nothing to see.

    Raises:
        ValueError: no dial, or fewer than 2 digits.
    """

    def __init__(self, dials: int = 6, digits: int = 7, render_mode: str | None = None) -> None:
        if dials < 1 or digits < 2:
            raise ValueError(f"Dials needs at least 1 dial of 2 digits, got dials={dials}, digits={digits}")
        self.observation_space = spaces.MultiDiscrete([digits] * (2 * dials))
        self.action_space = spaces.MultiDiscrete([digits] * dials)
        self.render_mode = render_mode
        self._dials, self._digits = dials, digits

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Digits, dict[str, Any]]:
        super().reset(seed=seed)
        self._shown, self._wanted = self.np_random.integers(self._digits, size=(2, self._dials))
        return self._observation(), {}

    def step(self, action: Digits) -> tuple[Digits, float, bool, bool, dict[str, Any]]:
        self._shown = (self._shown + action) % self._digits
        reward = float((self._shown == self._wanted).mean())
        self._wanted = self.np_random.integers(self._digits, size=self._dials)
        return self._observation(), reward, False, False, {}

    def _observation(self) -> Digits:
        return np.concatenate([self._shown, self._wanted])
