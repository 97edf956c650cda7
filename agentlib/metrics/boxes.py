"""Boxes in pictures: conventions, overlap, suppression of duplicates, and average precision.

    IoU = |A and B| / |A or B|          GIoU = IoU - |C less (A or B)| / |C|,   C the smallest box around both

A box is (x1, y1, x2, y2) in pixels: its left, upper, right and lower edge; x points to the right, y down. Edges lie
between pixels: the box of the first pixel is (0, 0, 1, 1), and its area (x2 - x1) (y2 - y1).

GIoU: Rezatofighi et al. 2019, arXiv:1902.09630. Average precision: Everingham et al. 2010,
doi:10.1007/s11263-009-0275-4, as Lin et al. 2014 (COCO, arXiv:1405.0312) compute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Convention = Literal["xyxy", "xywh", "cxcywh"]
"""Two corners; the left upper corner, width and height; or the center, width and height."""
COCO_THRESHOLDS = tuple(0.5 + 0.05 * i for i in range(10))
"""Overlaps from .5 to .95 at which COCO averages the average precision."""
MOST_DETECTIONS = 100
"""Detections of one class in one picture that count: those with the highest scores."""


def as_corners(boxes: Tensor, convention: Convention = "xyxy") -> Tensor:
    """Boxes `(..., 4)` of a convention as (x1, y1, x2, y2).

    Raises:
        ValueError: an unknown convention, or boxes of another number of values than four.
    """
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"a box has four numbers, and these are of shape {tuple(boxes.shape)}")
    if convention == "xyxy":
        return boxes
    if convention not in ("xywh", "cxcywh"):
        raise ValueError(f"the convention of boxes is xyxy, xywh or cxcywh, not {convention!r}")
    start, size = boxes.split(2, -1)
    start = start if convention == "xywh" else start - size / 2
    return torch.cat([start, start + size], -1)


def areas(boxes: Tensor) -> Tensor:
    """Areas `(...)` of boxes `(..., 4)`; 0 of those without inside."""
    return _product(boxes[..., 2:] - boxes[..., :2])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """The overlap `(..., n, m)` of each of the boxes `(..., n, 4)` with each of `(..., m, 4)`; 0 for two empty ones."""
    shared, together = _shared(first, second)
    return shared / together.clamp_min(torch.finfo(together.dtype).tiny)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """As `iou`, and below 0 where boxes are apart, down to -1; so it has a gradient there, too."""
    shared, together = _shared(first, second)
    tiny = torch.finfo(together.dtype).tiny
    low = torch.minimum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.maximum(first[..., :, None, 2:], second[..., None, :, 2:])
    around = _product(high - low)
    return shared / together.clamp_min(tiny) - (around - together) / around.clamp_min(tiny)


def _product(sides: Tensor) -> Tensor:
    """Width times height of sides `(..., 2)`; the gradient of `prod` would look at the values for zeros."""
    width, height = sides.clamp_min(0).unbind(-1)
    return width * height


def _shared(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The areas of the intersection and of the union, each `(..., n, m)`."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    shared = _product(high - low)
    return shared, areas(first)[..., :, None] + areas(second)[..., None, :] - shared


def nms(boxes: Tensor, scores: Tensor, threshold: float = 0.5, labels: Tensor | None = None) -> Tensor:
    """The rows of boxes that stay, best score first: none overlaps a better one of its class by more than `threshold`.

    It is no tensor work of fixed shape, and so for predictions, not for updates.

    Args:
        boxes: `(n, 4)`.
        scores: `(n,)`; of equal ones the first stays.
        threshold: of the IoU.
        labels: `(n,)` classes, each by itself; None treats all boxes alike.
    """
    order = scores.argsort(descending=True, stable=True)
    overlap = iou(boxes, boxes) > threshold
    if labels is not None:
        overlap &= labels[:, None] == labels[None, :]
    overlaps, gone, kept = overlap.cpu().numpy(), np.zeros(len(boxes), bool), list[int]()
    for row in order.tolist():
        if not gone[row]:
            kept.append(row)
            gone |= overlaps[row]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


def mask_boxes(masks: Tensor, count: int) -> Tensor:
    """The boxes `(N, count, 4)` around the pixels of objects 1, 2, ... count; zeros where an object has none.

    Args:
        masks: `(N, H, W)`, the object that each pixel shows; 0 for none.
        count: objects to look for.
    """
    boxes = []
    for one in range(1, count + 1):
        found = masks == one
        edges = []
        for hidden in (1, 2):  # columns, then rows
            hit = found.any(hidden)
            length = hit.shape[1]
            first, last = hit.int().argmax(1), length - hit.flip(1).int().argmax(1)
            edges.append(torch.stack([first, last], -1) * hit.any(1)[:, None])
        (left, right), (upper, lower) = (edge.unbind(-1) for edge in edges)
        boxes.append(torch.stack([left, upper, right, lower], -1))
    return torch.stack(boxes, 1).float()


class Found(NamedTuple):
    """Objects in many pictures, one row for each; of the truth, without scores."""

    image: NDArray[np.int64]
    """`(n,)` the picture."""
    boxes: NDArray[np.float64]
    """`(n, 4)`"""
    labels: NDArray[np.int64]
    """`(n,)` classes from 0."""
    scores: NDArray[np.float64] | None = None
    """`(n,)`, higher for those that are surer; they are compared over all pictures."""


def average_precisions(
    found: Found, truth: Found, n_classes: int, thresholds: Sequence[float] = (0.5,)
) -> NDArray[np.float64]:
    """The average precision `(thresholds, classes)`; NaN for a class of which there is no object.

    A class's detections are ranked over all pictures together. Each is right if it overlaps an object of its class by
    the threshold at least, which no better one was matched to; a second one on the same object is wrong. Precision is
    made to fall with recall, and averaged at 101 recalls from 0 to 1: the computation of pycocotools. The mean over
    classes and thresholds is "mAP"; at .5 alone, "mAP@.5".

    Args:
        found: detections with scores.
        truth: the objects.
        n_classes: number of classes.
        thresholds: of the IoU.
    """
    assert found.scores is not None, "detections have scores"
    result = np.full((len(thresholds), n_classes), np.nan)
    for label in range(n_classes):
        mine, theirs = found.labels == label, truth.labels == label
        if not theirs.any():
            continue
        scores, right = [np.zeros(0)], [np.zeros((len(thresholds), 0), bool)]
        objects = {image: truth.boxes[theirs & (truth.image == image)] for image in np.unique(truth.image[theirs])}
        for image in np.unique(found.image[mine]):
            rows = np.flatnonzero(mine & (found.image == image))
            rows = rows[np.argsort(-found.scores[rows], kind="stable")][:MOST_DETECTIONS]
            scores.append(found.scores[rows])
            right.append(_matched(found.boxes[rows], objects.get(image, np.zeros((0, 4))), thresholds))
        ranks = np.argsort(-np.concatenate(scores), kind="stable")
        hits = np.concatenate(right, 1)[:, ranks]  # (thresholds, n)
        result[:, label] = [_area_under(row, int(theirs.sum())) for row in hits]
    return result


def _matched(
    boxes: NDArray[np.float64], objects: NDArray[np.float64], thresholds: Sequence[float]
) -> NDArray[np.bool_]:
    """Which of the boxes of one picture, best first, are right: `(thresholds, n)`."""
    right = np.zeros((len(thresholds), len(boxes)), bool)
    if not len(objects) or not len(boxes):
        return right
    overlaps = iou(torch.from_numpy(boxes).double(), torch.from_numpy(objects).double()).numpy()
    for number, threshold in enumerate(thresholds):
        free = np.ones(len(objects), bool)
        for row, overlap in enumerate(overlaps):
            open_ = np.where(free, overlap, -1.0)
            best = len(open_) - 1 - int(open_[::-1].argmax())  # of equal ones the last, as pycocotools has it
            if open_[best] >= min(threshold, 1.0 - 1e-10):
                right[number, row], free[best] = True, False
    return right


def _area_under(hits: NDArray[np.bool_], objects: int) -> float:
    """The mean precision at 101 recalls of detections, best first, that are right or not."""
    if not len(hits):
        return 0.0
    true = np.cumsum(hits)
    recall, precision = true / objects, true / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0.0, 1.0, 101), side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(hits))].mean())
