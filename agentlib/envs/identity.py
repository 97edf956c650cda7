"""Identity: say what you see. The least that every control algorithm must solve, in seconds.

The next observation does not depend on the action, so an agent fails here only if its machinery is broken: the optimal
policy is `action = observation`, with return 10 in the 10 steps of `agentlib/Identity-v0`; a random one gets 10 / n.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from agentlib.core.numbers import whole


class Identity(gymnasium.Env[np.int64, np.int64]):
    """Observation uniform over `Discrete(n)`; reward 1 if the action equals it, else 0. It never terminates.

    Args:
        n: number of observations, and of actions.
        render_mode: only `None`; there is nothing to see.

    Raises:
        ValueError: `n` is no whole number from 2.
    """

    def __init__(self, n: int = 4, render_mode: str | None = None) -> None:
        n = whole("n", n, 2)
        self.observation_space = spaces.Discrete(n)
        self.action_space = spaces.Discrete(n)
        self.render_mode = render_mode
        self._n = n

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        super().reset(seed=seed)
        return self._next(), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        reward = float(action == self._observation)
        return self._next(), reward, False, False, {}

    def _next(self) -> np.int64:
        self._observation = self.np_random.integers(self._n)
        return self._observation
