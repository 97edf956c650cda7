"""Regions of maps: RoI align, anchors, and boxes as offsets from other boxes (Ren et al. 2015; He et al. 2017).

    t = ((x - x_a) / (.1 w_a), (y - y_a) / (.1 h_a), log(w / w_a) / .2, log(h / h_a) / .2)

(x, y) is the center of a box, (x_a, y_a) that of its anchor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

DEVIATIONS = (0.1, 0.2)
"""The usual size of the offsets of centers and of logarithms of sizes, by which they are divided."""
LARGEST = math.log(8.0)
"""Of the logarithm of how much larger a box is than its anchor."""


def roi_align(maps: Tensor, boxes: Tensor, size: int, sampling: int = 2) -> Tensor:
    """The maps inside of boxes, `(B, R, C, size, size)`: each cell the mean of `sampling` by `sampling` points.

    Values between the centers of the maps' cells are interpolated linearly in both directions, those beyond the outer
    centers are as there (Mask R-CNN, He et al. 2017, arXiv:1703.06870; torchvision's `roi_align` with aligned=True).
    As rows and columns are interpolated independently, it is two products of matrices: no gather, no scatter.

    Args:
        maps: `(B, C, H, W)`.
        boxes: `(B, R, 4)`, corners in cells of the maps: (0, 0, W, H) is the whole map.
        size: cells of a region in each direction.
        sampling: points of a cell in each direction.
    """
    height, width = maps.shape[-2:]
    columns = _weights(boxes[..., 0], boxes[..., 2], size, sampling, width)  # (B, R, size, W)
    rows = _weights(boxes[..., 1], boxes[..., 3], size, sampling, height)  # (B, R, size, H)
    narrow = torch.einsum("brjx,bcyx->brcyj", columns, maps)
    return torch.einsum("briy,brcyj->brcij", rows, narrow)


def _weights(low: Tensor, high: Tensor, size: int, sampling: int, length: int) -> Tensor:
    """The share `(B, R, size, length)` of each cell of the map in each cell of a region, along one direction."""
    ticks = (torch.arange(size * sampling, device=low.device, dtype=low.dtype) + 0.5) / (size * sampling)
    points = low[..., None] + (high - low)[..., None] * ticks - 0.5  # (B, R, size * sampling), in centers of cells
    points = points.clamp(0.0, length - 1.0)
    cells = torch.arange(length, device=low.device, dtype=low.dtype)
    hats = (1.0 - (points[..., None] - cells).abs()).clamp_min(0.0)
    shares: Tensor = hats.unflatten(-2, (size, sampling)).mean(-2)
    return shares


def anchors_on(shape: Sequence[int], cells: Sequence[int], sizes: Sequence[float]) -> Tensor:
    """Squares around the center of each cell, `(height * width * sizes, 4)`, row by row, the sizes of a cell together.

    Args:
        shape: `(C, H, W)` of the picture, in whose pixels the squares are.
        cells: height and width of the map.
        sizes: sides, as shares of the shorter side of the picture.
    """
    y, x = ((torch.arange(n, dtype=torch.float32) + 0.5) * (side / n) for n, side in zip(cells, shape[1:], strict=True))
    center = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # (h, w, 2)
    half = torch.tensor(list(sizes), dtype=torch.float32)[:, None] * min(shape[1:]) / 2.0
    return torch.cat([center[:, :, None] - half, center[:, :, None] + half], -1).reshape(-1, 4)


def encoded(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets `(..., 4)` of boxes from anchors, both corners `(..., 4)`."""
    size, around = (_size(part).clamp_min(1e-3) for part in (boxes, anchors))
    shift = (_center(boxes) - _center(anchors)) / around
    return torch.cat([shift / DEVIATIONS[0], (size / around).log() / DEVIATIONS[1]], -1)


def decoded(offsets: Tensor, anchors: Tensor, sides: Sequence[int] | None = None) -> Tensor:
    """Corners `(..., 4)` from offsets, the inverse of `encoded`; cut off at a picture's height and width, if given."""
    shift, scale = offsets.split(2, -1)
    center = _center(anchors) + DEVIATIONS[0] * shift * _size(anchors)
    half = _size(anchors) * (DEVIATIONS[1] * scale).clamp(-LARGEST, LARGEST).exp() / 2.0
    corners = torch.cat([center - half, center + half], -1)
    if sides is None:
        return corners
    x, y = corners[..., 0::2].clamp(0.0, sides[1]), corners[..., 1::2].clamp(0.0, sides[0])
    return torch.stack([x, y], -1).flatten(-2)


def scaled(boxes: Tensor, x: float, y: float) -> Tensor:
    """Boxes `(..., 4)` in units that are larger by these factors."""
    return torch.stack([boxes[..., 0::2] / x, boxes[..., 1::2] / y], -1).flatten(-2)


def _center(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2.0


def _size(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2]
