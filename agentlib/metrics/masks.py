"""Pictures held against pictures: segmentations, instances and depth maps.

    IoU_c = |P_c and T_c| / |P_c or T_c|,       Dice_c = 2 |P_c and T_c| / (|P_c| + |T_c|)
    abs-rel = mean |d - t| / t,                 delta = share of pixels with max(d / t, t / d) < 1.25

P_c and T_c are the pixels of class c in prediction and truth, of all pictures together. Means are over the classes that
occur in either: background counts as one of them, so that a prediction of nothing but background has a mean IoU of its
own, which is the floor. Depth: Eigen et al. 2014, arXiv:1406.2283. Rand index: Hubert & Arabie 1985.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def confusion(predicted: Tensor, truth: Tensor, n_classes: int) -> Tensor:
    """Counts `(n_classes, n_classes)` of pixels, a row for each true class.

    Raises:
        ValueError: prediction and truth differ in shape, or have classes beyond these.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"a prediction of {tuple(predicted.shape)} does not fit a truth of {tuple(truth.shape)}")
    for part in (predicted, truth):
        if part.numel() and not 0 <= int(part.min()) <= int(part.max()) < n_classes:
            found = f"{int(part.min())} to {int(part.max())}"
            raise ValueError(f"the classes of pixels are from 0 to {n_classes - 1}, and these are from {found}")
    pairs = truth.long() * n_classes + predicted.long()
    return torch.bincount(pairs.flatten(), minlength=n_classes**2).reshape(n_classes, n_classes)


def class_iou(counts: Tensor) -> Tensor:
    """IoU of each class `(C,)` from counts `(C, C)`; NaN for one that neither prediction nor truth has."""
    shared = counts.diagonal().double()
    return shared / (counts.sum(0) + counts.sum(1) - shared)


def mean_iou(predicted: Tensor, truth: Tensor, n_classes: int) -> float:
    """The mean IoU over the classes that occur, of pixels `(...)` of all pictures together."""
    return float(class_iou(confusion(predicted, truth, n_classes)).nanmean())


def mean_dice(predicted: Tensor, truth: Tensor, n_classes: int) -> float:
    """The mean Dice coefficient over the classes that occur; 2 IoU / (1 + IoU) of each."""
    each = class_iou(confusion(predicted, truth, n_classes))
    return float((2.0 * each / (1.0 + each)).nanmean())


class DepthErrors(NamedTuple):
    """How far predicted depths are from true ones."""

    abs_rel: float
    """Mean of |d - t| / t."""
    rmse: float
    """Root of the mean squared error, in the unit of depths."""
    delta: float
    """Share of pixels within a factor of 1.25."""
    scale_invariant: float
    """Deviation of log d - log t: 0 for a prediction that is off by one factor everywhere."""


def depth_errors(predicted: Tensor, truth: Tensor) -> DepthErrors:
    """Errors of depths `(...)`, over all pixels.

    Raises:
        ValueError: a true depth that is not above 0.
    """
    d, t = predicted.double(), truth.double()
    if not bool((t > 0).all()):
        raise ValueError(f"depths are above 0, and the smallest is {float(t.min()):g}")
    d = d.clamp_min(1e-6)
    ratio = torch.maximum(d / t, t / d)
    return DepthErrors(
        float(((d - t).abs() / t).mean()),
        float((d - t).square().mean().sqrt()),
        float((ratio < 1.25).double().mean()),
        float((d.log() - t.log()).std(correction=0)),
    )


def adjusted_rand_index(first: Tensor, second: Tensor) -> float:
    """How far two groupings `(n,)` of the same things agree: 1 for the same groups, 0 on average for random ones."""
    a, b = first.unique(return_inverse=True)[1], second.unique(return_inverse=True)[1]
    together = (a * (b.max() + 1) + b).unique(return_counts=True)[1]  # no table of all pairs, of which most are empty
    each = (counts.double() for counts in (together, a.bincount(), b.bincount()))
    both, rows, columns = (float((n * (n - 1.0) / 2.0).sum()) for n in each)
    chance, best = rows * columns / max(len(a) * (len(a) - 1) / 2.0, 1.0), (rows + columns) / 2.0
    return (both - chance) / (best - chance) if best != chance else 1.0


def instances(classes: Tensor) -> Tensor:
    """Pixels grouped into objects: those of one class that are connected, side by side or one above the other.

    Two objects of one class that touch are one group; where that matters, `detection` tells them apart.

    Args:
        classes: of pixels, `(N, H, W)`, 0 for background.

    Returns:
        The group of each pixel, from 1 in each picture, `(N, H, W)` int64; 0 for background.
    """
    n, height, width = classes.shape
    numbers = torch.arange(1, height * width + 1, device=classes.device).view(height, width)
    group = numbers.expand(n, -1, -1) * (classes > 0)
    below, right = classes[:, 1:] == classes[:, :-1], classes[:, :, 1:] == classes[:, :, :-1]
    is_growing = True
    while is_growing:  # the largest number goes on to all that is connected
        before = group.clone()
        for first, second, same in (
            (group[:, :-1], group[:, 1:], below),
            (group[:, :, :-1], group[:, :, 1:], right),
        ):
            first.copy_(torch.where(same, torch.maximum(first, second), first))
            second.copy_(torch.where(same, torch.maximum(first, second), second))
        # The number is that of a pixel of the same object, which may know a larger one.
        known = torch.nn.functional.pad(group.flatten(1), (1, 0))
        group.copy_(known.gather(1, group.flatten(1)).view_as(group))
        is_growing = not torch.equal(before, group)
    for one in group:
        values, inverse = one.unique(return_inverse=True)
        one.copy_(inverse + int(values[0] > 0))
    return group


def grouping_score(groups: Tensor, objects: Tensor) -> float:
    """The mean adjusted Rand index of groups with true objects, both `(N, H, W)`, on the pixels of these; NaN for none.

    Pictures without objects (0 everywhere) do not count.
    """
    pairs = [(a[b > 0], b[b > 0]) for a, b in zip(groups, objects, strict=True)]
    found = [adjusted_rand_index(*pair) for pair in pairs if len(pair[0])]
    return sum(found) / len(found) if found else float("nan")
