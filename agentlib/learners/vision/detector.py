"""A detector in two stages (Faster R-CNN, Ren et al. 2015, arXiv:1506.01497): proposals, and what they are.

    score of an anchor = sigmoid(objectness),        p(class | region) = softmax(head(RoI align(maps, proposal)))

A map of the image has anchors at each cell; the first stage says which of them are objects, and by how much to move
them. The maps inside of the best are aligned to squares of one size, of which the second stage says the class, and
again by how much to move. We differ from the paper: one map, square anchors, RoI align in place of pooling, offsets in
common for all classes; and duplicates among the proposals are kept down by taking anchors that are the best of their
3x3 cells, which has fixed shapes, and not by their overlap. Overlap decides at the end, outside of updates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Backbone, Described
from agentlib.backbones.pixels import map_shapes
from agentlib.backbones.regions import anchors_on, decoded, roi_align, scaled
from agentlib.metrics.boxes import nms

STRIDE = 4
"""Pixels of the picture in a cell of the map that is used, at most, if there is such a map."""
POOLED = 5
"""Cells of a region in each direction."""
LEAST_SCORE, OVERLAP = 0.05, 0.5
"""Detections that are less sure are dropped, and those that overlap a surer one of their class by more."""


class Detector(Described):
    """Boxes, scores and classes of objects in images.

    Args:
        backbone: a network with maps.
        shape: `(C, H, W)` of an image.
        classes: names of the objects' classes.
        anchor_sizes: sides of the anchors, as shares of the picture's shorter side.
        proposals: regions that the second stage looks at, and detections in an image, at most.
        hidden: width of the two layers of the second stage.
    """

    kind = "detector"

    anchors: Tensor

    def __init__(
        self,
        backbone: Backbone | nn.Module,
        shape: Sequence[int],
        classes: Sequence[str],
        anchor_sizes: Sequence[float] = (0.125, 0.22, 0.4),
        proposals: int = 24,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        self.backbone, self.shape, self.classes = backbone, tuple(map(int, shape)), tuple(classes)
        self.anchor_sizes, self.hidden = tuple(map(float, anchor_sizes)), int(hidden)
        sizes = map_shapes(backbone, self.shape)
        self.level = max((i for i, one in enumerate(sizes) if one[1] * STRIDE >= self.shape[1]), default=0)
        channels, *self.cells = sizes[self.level]
        n = len(self.anchor_sizes)
        self.register_buffer("anchors", anchors_on(self.shape, self.cells, self.anchor_sizes), persistent=False)
        self.proposals = min(int(proposals), len(self.anchors))
        self.region_layer = nn.Conv2d(channels, channels, 3, 1, 1)
        self.region_head = nn.Conv2d(channels, 5 * n, 1)  # objectness and offsets of each anchor
        widths = [channels * POOLED**2, self.hidden, self.hidden]
        self.layers = nn.Sequential(
            nn.Linear(widths[0], widths[1]), nn.ReLU(), nn.Linear(widths[1], widths[2]), nn.ReLU()
        )
        self.class_head, self.box_head = nn.Linear(self.hidden, 1 + len(self.classes)), nn.Linear(self.hidden, 4)
        for head in (self.region_head, self.class_head, self.box_head):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def first_stage(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps `(B, C, h, w)`, and of each anchor the objectness `(B, A)`, a logit, and offsets `(B, A, 4)`."""
        maps = self.backbone.maps(image)[self.level]  # type: ignore[operator]
        output = self.region_head(functional.relu(self.region_layer(maps)))  # (B, 5 n, h, w)
        output = output.unflatten(1, (len(self.anchor_sizes), 5)).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (B, A, 5)
        return maps, output[..., 0], output[..., 1:]

    def propose(self, objectness: Tensor, offsets: Tensor) -> Tensor:
        """The best boxes `(B, proposals, 4)`, without gradient; of each 3x3 cells only the best anchor of a size."""
        scores = objectness.detach()
        maps = scores.unflatten(1, (*self.cells, -1)).movedim(-1, 1)  # (B, sizes, h, w)
        is_best = (maps == functional.max_pool2d(maps, 3, 1, 1)).movedim(1, -1).flatten(1)
        rows = torch.where(is_best, scores, scores - 1e4).topk(self.proposals, 1).indices
        boxes = decoded(offsets.detach(), self.anchors, self.shape[1:])
        return boxes.gather(1, rows[..., None].expand(-1, -1, 4))

    def second_stage(self, maps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(B, R, 1 + classes)`, background first, and offsets `(B, R, 4)`, of boxes `(B, R, 4)`."""
        y, x = (side / cells for side, cells in zip(self.shape[1:], self.cells, strict=True))
        regions = roi_align(maps, scaled(boxes, x, y), POOLED)  # (B, R, C, POOLED, POOLED)
        features = self.layers(regions.flatten(2))
        return self.class_head(features), self.box_head(features)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of classes `(B, R, 1 + classes)`, background first, and boxes `(B, R, 4)`, with duplicates."""
        maps, objectness, offsets = self.first_stage(image)
        proposals = self.propose(objectness, offsets)
        logits, moves = self.second_stage(maps, proposals)
        return logits.softmax(-1), decoded(moves, proposals, self.shape[1:])

    def answer(self, image: Tensor) -> Tensor:
        """Detections `(B, proposals, 6)`: corners, score, class, best first; score 0 and class -1 for none."""
        shares, boxes = self(image)
        found: Tensor = boxes.new_zeros(len(boxes), self.proposals, 6)
        found[..., 5] = -1.0
        for row, (share, box) in enumerate(zip(shares, boxes, strict=True)):
            region, label = (share[:, 1:] > LEAST_SCORE).nonzero(as_tuple=True)
            scores, corners = share[region, label + 1], box[region]
            kept = nms(corners, scores, OVERLAP, label)[: self.proposals]
            parts = corners[kept], scores[kept, None], label[kept, None].to(corners.dtype)
            found[row, : len(kept)] = torch.cat(parts, 1)
        return found

    def describe(self, answer: Tensor) -> str:
        """The detections `(n, 6)` in one image, those that are as likely as not, in words."""
        sure = [one for one in answer.tolist() if one[4] >= 0.5]
        texts = [
            f"{self.classes[int(label)]} ({score:.3f}) at {x1:.1f}, {y1:.1f}, {x2:.1f}, {y2:.1f}"
            for x1, y1, x2, y2, score, label in sure
        ]
        return "; ".join(texts) or "nothing"
