"""The losses by which action values, and distributions of returns, are fitted to their goals.

    m_i = sum_j max(0, 1 - |clip(y_j) - z_i| / dz) p_j,   L = -sum_i m_i log p(z_i)                          (C51)
    L = sum_i E_j[ |tau_i - 1{u_ij < 0}| huber(u_ij) ],   u_ij = y_j - q_i,   tau_i = (i + 1/2) / n           (QR)

y are returns that were moved by the Bellman equation, of the probabilities p. C51: Bellemare, Dabney and Munos 2017,
arXiv:1707.06887. QR-DQN: Dabney et al. 2018, arXiv:1710.10044.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LOSSES = {"huber": functional.smooth_l1_loss, "mse": functional.mse_loss}
"""Losses of plain values, by name."""


def c51_projection(probability: Tensor, position: Tensor, support: Tensor) -> Tensor:
    """The distribution `(..., n)` on the atoms of the support that is nearest to one on other positions.

    The mass of each position goes to the two atoms beside it, in inverse proportion to the distance; what lies outside
    goes to the atom at that end.

    Args:
        probability: `(..., n)`.
        position: `(..., n)`: where the mass lies.
        support: `(n,)`: atoms at equal distances, rising.
    """
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    inside = position.clamp(support[0], support[-1])
    share = (1.0 - (inside[..., None, :] - support[:, None]).abs() / spacing).clamp(min=0.0)  # (..., atom, position)
    return (share @ probability[..., None])[..., 0]


def cross_entropy(logits: Tensor, goal: Tensor) -> Tensor:
    """-sum_i goal_i log softmax(logits)_i, `(...)`, for logits and goals `(..., n)`."""
    return -(goal * logits.log_softmax(-1)).sum(-1)


def entropy(probability: Tensor) -> Tensor:
    """-sum_i p_i log p_i in nats, `(...)`, for `(..., n)`; 0 log 0 is 0."""
    return -torch.xlogy(probability, probability).sum(-1)


def quantile_huber_loss(quantile: Tensor, goal: Tensor) -> Tensor:
    """The sum over the quantiles of their mean loss over samples of the return, `(...)`.

    Args:
        quantile: `(..., n)`: for tau = 1 / 2n, 3 / 2n, ...
        goal: `(..., m)`: samples, or quantiles, of the return.
    """
    n = quantile.shape[-1]
    tau = (torch.arange(n, device=quantile.device, dtype=quantile.dtype) + 0.5) / n  # (n,)
    error = goal[..., None, :] - quantile[..., :, None]  # (..., n, m)
    huber = functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")
    weight = (tau[:, None] - (error.detach() < 0).to(tau.dtype)).abs()
    return (weight * huber).mean(-1).sum(-1)
