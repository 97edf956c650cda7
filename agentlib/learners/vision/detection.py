"""Detection in the manner of R-CNN (Girshick et al. 2014; Ren et al. 2015, arXiv:1506.01497).

    L = -1/2 (mean_pos log s + mean_neg log(1 - s))  +  mean_pos h(t - t*)           of anchors: first stage
        -mean log p(c)  +  mean_obj h(v - v*)                                        of regions: second stage

s is the objectness of an anchor, t and v are offsets of boxes (`agentlib.backbones.regions`), h is Huber's loss summed
over the four of them. An anchor is positive if it overlaps an object by half at least, or is the best one for it, and
negative if it overlaps none by .3; a region shows the object that it overlaps by half at least, or background. Regions
are proposals and the true boxes. We differ from the paper: all anchors count in place of 256 that are drawn, half of
them positive, with weights that make it the same in expectation; and both stages learn in one step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import CNN, Optimized
from agentlib.backbones.regions import encoded
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, Range, Rate
from agentlib.data import Examples, ScenesParts, shape_scenes
from agentlib.families.scenes import SceneFacts, on_scenes
from agentlib.learners.vision.detector import Detector
from agentlib.metrics.boxes import iou

POSITIVE, NEGATIVE = 0.5, 0.3
"""Overlaps from which on an anchor or region shows an object, and below which an anchor shows none."""


def matched(boxes: Tensor, objects: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The object of each box: its overlap `(B, R)`, its row `(B, R)`, and whether the box is the best for it `(B, R)`.

    Args:
        boxes: `(B, R, 4)`.
        objects: `(B, M, 4)`.
        labels: `(B, M)`; below 0 where there is no object, which overlaps nothing.
    """
    overlaps = iou(boxes, objects).where(labels[:, None] >= 0, -1.0)  # (B, R, M)
    best, row = overlaps.max(-1)
    is_best = ((overlaps == overlaps.amax(1, keepdim=True)) & (overlaps > 0)).gather(-1, row[..., None])[..., 0]
    return best, row, is_best


def mean_where(losses: Tensor, mask: Tensor) -> Tensor:
    """The mean of those losses that count, 0-dim; 0 where none does."""
    return (losses * mask).sum() / mask.sum().clamp_min(1)


def region_loss(objectness: Tensor, offsets: Tensor, anchors: Tensor, y: Tensor) -> Tensor:
    """The loss of the first stage, 0-dim.

    Args:
        objectness: `(B, A)` logits.
        offsets: `(B, A, 4)`.
        anchors: `(A, 4)`.
        y: `(B, M, 5)` corners and classes of objects, -1 for none.
    """
    around = anchors.expand(len(y), -1, -1)
    best, row, is_best = matched(around, y[..., :4], y[..., 4])
    positive, negative = (best >= POSITIVE) | is_best, (best < NEGATIVE) & ~is_best
    truth = y[..., :4].gather(1, row[..., None].expand(-1, -1, 4))
    moves = functional.smooth_l1_loss(offsets, encoded(truth, around), reduction="none").sum(-1)
    found = mean_where(functional.softplus(-objectness), positive)
    missed = mean_where(functional.softplus(objectness), negative)
    return 0.5 * (found + missed) + mean_where(moves, positive)


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(Optimized):
    """The numbers of a detection's run."""

    learning_rate: Rate = Cosine(2e-3)
    """Learning rate: a number or a schedule."""
    batch_size: Count = 16
    """Pictures per update."""
    anchor_sizes: tuple[Annotated[float, Range(0.01, 2)], ...] = (0.125, 0.22, 0.4)
    """Sides of the anchors, as shares of the picture's shorter side."""
    proposals: Count = 24
    """Regions that the second stage looks at, and detections in a picture, at most."""
    hidden: Count = 128
    """Width of the two layers of the second stage."""
    net_arch: tuple[int, ...] = (32, 64, 64, 64, 64)
    """Channels of the network's convolutions; each of the first two halves the sides."""

    def network(self, shape: Sequence[int]) -> CNN:
        """The network of images `(C, H, W)` that "auto" means."""
        layers = [(width, 3, 2 if i < 2 else 1, 1) for i, width in enumerate(self.net_arch)]
        return CNN(shape, layers, feature_dim=None, norm="group")


class Detection(Learner):
    """Learns boxes and classes of objects."""

    targets = "boxes"

    def __init__(self, network: Detector, optimizer: Optimizer, config: DetectionConfig = DetectionConfig()) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: DetectionConfig, facts: SceneFacts) -> Self:
        """A detector on a network of images."""
        sizes, classes = config.anchor_sizes, facts.classes
        network = Detector(backbone, facts.shape, classes, sizes, config.proposals, config.hidden)
        return cls(network, config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """Detections `(B, proposals, 6)`: corners, score and class, best first; a score of 0 for none."""
        return self.network.answer(x)

    def update(self, batch: Examples) -> Update:
        """One step on the losses of both stages; `per_sample` holds the second's cross-entropies `(B,)`."""
        assert batch.y is not None
        y, net = batch.y, self.network
        maps, objectness, offsets = net.first_stage(batch.x)
        first = region_loss(objectness, offsets, net.anchors, y)
        boxes = torch.cat([net.propose(objectness, offsets), y[..., :4]], 1)  # (B, proposals + M, 4)
        known = torch.cat([torch.ones_like(boxes[:, : net.proposals, 0]), (y[..., 4] >= 0).to(boxes.dtype)], 1)
        best, row, _ = matched(boxes, y[..., :4], y[..., 4])
        truth = y.gather(1, row[..., None].expand(-1, -1, 5))
        is_object = (best >= POSITIVE).to(boxes.dtype) * known
        labels = (truth[..., 4] + 1).where(is_object > 0, 0.0).long()  # 0 for background
        logits, moves = net.second_stage(maps, boxes)
        losses = functional.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")  # (B, R)
        errors = functional.smooth_l1_loss(moves, encoded(truth[..., :4], boxes), reduction="none").sum(-1)
        classes = mean_where(losses, known)
        second = classes + mean_where(errors.where(is_object > 0, 0.0), is_object)
        norm = self.step(first + second, batch.clock)
        metrics = {"loss": first + second, "region_loss": first, "class_loss": classes}
        per_sample = ((losses * known).sum(1) / known.sum(1)).detach()
        return Update({name: value.detach() for name, value in metrics.items()} | {"grad_norm": norm}, per_sample)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: shapes of 16x16, maps of 4x4."""
        data = shape_scenes(24, size=16, most=2)
        config = DetectionConfig(batch_size=4, net_arch=(8, 8), proposals=6, hidden=16)
        return RECIPE.tiny(cls, config, seed, data=ScenesParts(data, data, data))


RECIPE = Recipe(
    "detection",
    Detection,
    DetectionConfig,
    on_scenes,
    "boxes and classes of objects in two stages (Ren et al. 2015)",
    steps=3_000,
)
