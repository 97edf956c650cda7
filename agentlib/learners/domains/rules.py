"""What domains are compared by, as pure functions of features and logits.

A domain's share of a batch is given by masks `(D, N)` of zeros and ones.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masks_of(group: Tensor, n_groups: int) -> Tensor:
    """Masks `(G, N)` of groups `(N,)`, float32."""
    return (torch.arange(n_groups, device=group.device)[:, None] == group).float()


def means(values: Tensor, masks: Tensor) -> Tensor:
    """The mean of values `(N,)` in each group `(G,)`; 0 of a group without any."""
    return (masks * values).sum(1) / masks.sum(1).clamp_min(1.0)


def reversed_gradient(x: Tensor, scale: Tensor | float) -> Tensor:
    """x, with a gradient that is multiplied by -scale (Ganin et al. 2016, arXiv:1505.07818)."""
    return x.detach() + scale * (x.detach() - x)


def turned_apart(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images `(B, C, S, S)`, a quarter of them turned by each of 0, 90, 180 and 270 degrees, and by which, `(B,)`."""
    parts = images.tensor_split(4)
    turned = torch.cat([part.rot90(turn, (-2, -1)) for turn, part in enumerate(parts)])
    return turned, torch.cat([torch.full((len(part),), turn, device=images.device) for turn, part in enumerate(parts)])


def irm_penalty(logits: Tensor, y: Tensor, masks: Tensor) -> Tensor:
    """The squared slope of a domain's risk in a factor w = 1 on its logits, `(D,)` (Arjovsky et al. 2019, IRMv1).

    d/dw mean CE(w z, y) = mean sum_k (p_k - y_k) z_k. Each half of a batch gives a slope, and the product of both is
    unbiased, which the square is not; it may be below 0.
    """
    onehot = torch.nn.functional.one_hot(y, logits.shape[1])
    slopes = ((logits.softmax(1) - onehot) * logits).sum(1)  # (N,)
    first = (torch.arange(len(y), device=y.device) < len(y) // 2).to(masks)
    return means(slopes, masks * first) * means(slopes, masks * (1.0 - first))


def covariances(features: Tensor, masks: Tensor) -> Tensor:
    """The covariance of features `(N, d)` in each domain, `(D, d, d)`, divided by n - 1."""
    n = masks.sum(1)
    mean = (masks @ features) / n.clamp_min(1.0)[:, None]
    centered = (features[None] - mean[:, None]) * masks[:, :, None]  # (D, N, d)
    return centered.mT @ centered / (n - 1.0).clamp_min(1.0)[:, None, None]


def coral(features: Tensor, masks: Tensor) -> Tensor:
    """|C_a - C_b|^2 / (4 d^2), the mean over pairs of domains (Sun and Saenko 2016, arXiv:1607.01719), 0-dim.

    Domains with less than two examples have no covariance, and do not count.
    """
    found = covariances(features, masks).flatten(1)
    distance = (found[:, None] - found[None]).square().sum(2)
    return _pairs(distance, masks.sum(1) > 1.0) / (4.0 * features.shape[1] ** 2)


def mmd(features: Tensor, masks: Tensor) -> Tensor:
    """The squared maximum mean discrepancy (Gretton et al. 2012), the mean over pairs of domains, 0-dim.

    The kernel is the mean of five Gaussians, exp(-2^k |x - y|^2 / m) with k from -2 to 2 and m the mean |x - y|^2.
    Domains without examples do not count.
    """
    square = features.square().sum(1)
    distance = (square[:, None] + square[None] - 2.0 * features @ features.T).clamp_min(0.0)
    scaled = distance / distance.detach().mean().clamp_min(1e-12)
    kernel = torch.stack([(-(2.0**k) * scaled).exp() for k in range(-2, 3)]).mean(0)
    share = masks / masks.sum(1, keepdim=True).clamp_min(1.0)  # (D, N)
    inner = share @ kernel @ share.T
    return _pairs(inner.diagonal()[:, None] + inner.diagonal()[None] - 2.0 * inner, masks.sum(1) > 0.0)


def _pairs(values: Tensor, there: Tensor) -> Tensor:
    """The mean of `(D, D)` over pairs of different domains that are there `(D,)`; the diagonal is 0."""
    n = there.to(values).sum()
    return (values * (there[:, None] & there[None])).sum() / (n * (n - 1.0)).clamp_min(1.0)


def tilted(shares: Tensor, losses: Tensor, step_size: float) -> Tensor:
    """q_g exp(step_size L_g), normalized: the weights of groups after a step (Sagawa et al. 2020, arXiv:1911.08731)."""
    return (shares.log() + step_size * losses.detach()).softmax(0)
