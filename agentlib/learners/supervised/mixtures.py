"""Mixed examples and their losses (Mixup, CutMix), and AugMix's consistency.

    L = s l(f(x'), y1) + (1 - s) l(f(x'), y2)          x' = s x1 + (1 - s) x2, or x1 with a box of x2
    JS = 1/v sum_i KL(p_i || m),   m = 1/v sum_i p_i,  0 <= JS <= ln v

for the predictions p_i on v views of one image (Hendrycks et al. 2020, arXiv:1912.02781, equation 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentlib.core.config import NonNegative
from agentlib.data.mixing import beta_shares, cutmix, mixup
from agentlib.families.augmented import Augmented


@dataclass(frozen=True, kw_only=True)
class Mixed(Augmented):
    """Mixtures of the examples of a batch, and their labels."""

    mixup: NonNegative = 0.0
    """Alpha of Mixup's shares, Beta(alpha, alpha), such as 0.2; 0 disables it."""
    cutmix: NonNegative = 0.0
    """Alpha of CutMix's shares, such as 1; 0 disables it. Where Mixup is on, too, each has half of the examples."""


def mixed(x: Tensor, config: Mixed) -> tuple[Tensor, Tensor | None]:
    """Examples `(B, ...)`, each mixed with its neighbour's `x.roll(1, 0)`, and their own shares `(B,)`; None if all is.

    Raises:
        ValueError: CutMix on what are no images.
    """
    if not config.mixup and not config.cutmix:
        return x, None
    if config.cutmix and x.dim() != 4:
        raise ValueError(f"cutmix is for images (B, C, H, W), not for examples {tuple(x.shape[1:])}: take mixup")
    if config.mixup:
        share = beta_shares(config.mixup, len(x), x.device)
        smooth = mixup(x, share)
        if not config.cutmix:
            return smooth, share
    cut, rest = cutmix(x, beta_shares(config.cutmix, len(x), x.device))
    if not config.mixup:
        return cut, rest
    is_cut = torch.rand(len(x), dtype=torch.float32, device=x.device) < 0.5
    return torch.where(is_cut[:, None, None, None], cut, smooth), torch.where(is_cut, rest, share)


def mixed_with_labels(
    x: Tensor, y: Tensor, config: Mixed, ranks: Any = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As `mixed`, and the neighbours' labels. Neighbours are those of the whole batch where `ranks` share it."""
    if ranks is None or not (config.mixup or config.cutmix):
        x, share = mixed(x, config)
        return x, share, None if share is None else y.roll(1, 0)
    with ranks.drawing_alike():
        whole = mixed(ranks.whole(x), config)
    x, share, others = ranks.part((*whole, ranks.whole(y).roll(1, 0)))
    return x, share, others


def mixed_losses(
    losses: Callable[[Tensor], Tensor], y: Tensor, share: Tensor | None, others: Tensor | None = None
) -> Tensor:
    """The losses `(B,)` of mixed examples, by those with given labels: those with their own and their neighbours'."""
    if share is None:
        return losses(y)
    return share * losses(y) + (1.0 - share) * losses(y.roll(1, 0) if others is None else others)


def jensen_shannon(logits: Tensor) -> Tensor:
    """The divergence `(B,)` of the predictions on v views, in nats; logits are `(v, B, K)`."""
    log_p = logits.log_softmax(-1)
    log_mean = log_p.logsumexp(0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_mean)).sum(-1).mean(0)
