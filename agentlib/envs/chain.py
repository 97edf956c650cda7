r"""Chain: what one mistake costs, and whom. It shows the difference between copying an expert and asking it.

In each of T steps a cue, a point drawn uniformly from a square, tells which of four actions is right: that of its
quadrant. A wrong one is a fall from the rope. Down there only a fifth action helps, which climbs back; every step that
ends off the rope costs 1. An expert never falls, so its demonstrations do not show how to climb: for those who know
only them, a mistake cannot be mended. A learner that is wrong about a share eps of the cues pays

    if it knows how to climb:    about eps T, its one step for each mistake
    if it does not:              sum_t [1 - (1 - eps)^t], about eps T^2 / 2, all steps from the first mistake on

which are the bounds of DAgger and of behavioural cloning (Ross & Bagnell 2010; Ross et al. 2011, arXiv:1011.0686).

The observation is `(3,)` float32: the cue, and 1 off the rope or 0 on it. The reward is -1 for a step that ends off the
rope, else 0. Nothing terminates; episodes are cut off after T steps.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.numbers import whole

Observation = NDArray[np.float32]

CLIMB = 4
"""The action that leads back to the rope."""


class Chain(gymnasium.Env[Observation, np.int64]):
    """A rope of `horizon` steps. Actions: 0 to 3 for the quadrants, 4 climbing.

    Args:
        horizon: T, the steps of an episode.
        render_mode: `None` or `"ansi"`.

    Raises:
        ValueError: `horizon` is no whole number from 1.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 (Gymnasium reads it from the class)

    def __init__(self, horizon: int = 40, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = spaces.Discrete(5)
        self.horizon, self.render_mode = whole("horizon", horizon, 1), render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._step, self._off = 0, False
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        right = CLIMB if self._off else quadrant(self._cue)
        self._off = bool(action != right)
        self._step += 1
        return self._observe(), -1.0 if self._off else 0.0, False, self._step >= self.horizon, {}

    def render(self) -> str | None:
        if self.render_mode is None:
            return None
        where = "off the rope" if self._off else f"on the rope, cue ({self._cue[0]:+.2f}, {self._cue[1]:+.2f})"
        return f"step {self._step} of {self.horizon}: {where}\n"

    def _observe(self) -> Observation:
        self._cue = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return np.array([*self._cue, self._off], np.float32)


def quadrant(cue: NDArray[Any]) -> NDArray[np.int64]:
    """The right action on the rope: cues `(*batch, 2)` to `(*batch)`, 0 to 3."""
    positive = cue > 0.0
    return np.asarray(2 * positive[..., 0] + positive[..., 1], np.int64)
