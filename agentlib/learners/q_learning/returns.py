"""Returns along sequences that were not all acted by the policy that is learned."""

from __future__ import annotations

import torch
from torch import Tensor


def watkins_returns(reward: Tensor, terminated: Tensor, next_value: Tensor, trace: Tensor, gamma: float) -> Tensor:
    """Watkins's Q(lambda), `(B, T)`: G_t = r_t + gamma (1 - terminated) [V_{t+1} + lambda_{t+1} (G_{t+1} - V_{t+1})].

    Args:
        reward: `(B, T)`.
        terminated: `(B, T)`, 1 where the step ended the task.
        next_value: `(B, T)`, V of the observation after each step.
        trace: `(B, T)`, lambda of the step after each; that of the last step is not read, as nothing follows.
        gamma: discount per step.
    """
    total, returns = next_value[:, -1], []  # G of the step after
    for t in reversed(range(reward.shape[1])):
        value = next_value[:, t]
        total = reward[:, t] + gamma * (1.0 - terminated[:, t]) * (value + trace[:, t] * (total - value))
        returns.append(total)
    return torch.stack(returns[::-1], 1)
