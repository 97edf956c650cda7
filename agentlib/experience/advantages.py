"""Advantages of steps, and rewards in units of the deviation of returns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def gae(
    reward: Floats, value: Floats, next_value: Floats, ended: NDArray[np.bool_], gamma: float, gae_lambda: float
) -> Floats:
    """Generalized advantage estimates `(T, n)` (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    A_t = delta_t + gamma lambda A_{t+1} within an episode,   delta_t = r_t + gamma V(s_{t+1}) - V(s_t)

    Args:
        reward: `(T, n)`
        value: `(T, n)`, of the state before each step.
        next_value: `(T, n)`, of the state after it, also where the episode was cut off; 0 where the task ended.
        ended: `(T, n)`, true where a step was the last of its episode.
        gamma: discount per step.
        gae_lambda: 0 gives the temporal differences, 1 the discounted returns less the value.
    """
    delta, decay = reward + gamma * next_value - value, gamma * gae_lambda * ~ended
    advantage, later = np.empty_like(delta), np.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        advantage[t] = later = delta[t] + decay[t] * later
    return advantage


class RewardScale:
    """Divides rewards by the deviation of the discounted returns so far, as SB3's `VecNormalize` does.

    Args:
        num_envs: environments side by side.
        gamma: discount per step.
        clip: scaled rewards are cut to `[-clip, clip]`.
    """

    def __init__(self, num_envs: int, gamma: float, clip: float = 10.0) -> None:
        self.gamma, self.clip = gamma, clip
        self.returns = np.zeros(num_envs)
        self.mean, self.variance, self.count = 0.0, 1.0, 1e-4

    def __call__(self, reward: Floats, ended: NDArray[np.bool_]) -> Floats:
        """Scaled rewards `(n,)` of one step of n environments."""
        self.returns = self.returns * self.gamma + reward
        n, total = len(reward), self.count + len(reward)
        shift = float(self.returns.mean()) - self.mean
        squares = self.variance * self.count + float(self.returns.var()) * n + shift**2 * self.count * n / total
        self.mean, self.variance, self.count = self.mean + shift * n / total, squares / total, total
        self.returns[ended] = 0.0
        scaled: Floats = np.clip(reward / np.sqrt(self.variance + 1e-8), -self.clip, self.clip)
        return scaled
