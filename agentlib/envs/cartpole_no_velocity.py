"""CartPole-v1 without the two velocities: what is left out must be remembered.

A policy that sees one observation only keeps the pole up for about 40 steps; one with memory, or with a stack of
frames, reaches the limit of 500. Reward, dynamics and limit are those of CartPole-v1.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray

Observation = NDArray[np.float32]


class CartPoleNoVelocity(CartPoleEnv):
    """Observation: position of the cart (m) and angle of the pole (rad), shape `(2,)`, float32.

    A subclass, not a wrapper, so that `env.unwrapped` has the spaces that the agent sees.

    Args:
        sutton_barto_reward: as in CartPole-v1.
        render_mode: `None`, `"human"` or `"rgb_array"`.
    """

    def __init__(self, sutton_barto_reward: bool = False, render_mode: str | None = None) -> None:
        super().__init__(sutton_barto_reward=sutton_barto_reward, render_mode=render_mode)
        full = self.observation_space
        assert isinstance(full, spaces.Box)
        self.observation_space = spaces.Box(full.low[::2], full.high[::2], dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation[::2].copy(), info

    def step(self, action: int | NDArray[Any]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        return observation[::2].copy(), reward, terminated, truncated, info
