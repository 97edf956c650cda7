"""Localization: the class and the box of the one object of a picture, in one pass.

    L = -log p(c)  +  w (|b - b*|_1 + 1 - GIoU(b, b*)),      b = (center, width, height) = sigmoid(W f(x) + a)

b and b* are shares of the picture's sides; GIoU is the generalized overlap of the two boxes (Rezatofighi et al. 2019,
arXiv:1902.09630), and the sum of the two terms that of DETR (Carion et al. 2020, arXiv:2005.12872), with equal weights.
In pictures of several objects it is the first one that is learned: for those, `detection` is the learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import CNN, Backbone, Described, Optimized
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, NonNegative, Rate
from agentlib.data import Examples, ScenesParts, shape_scenes
from agentlib.families.scenes import SceneFacts, on_scenes
from agentlib.metrics.boxes import as_corners, generalized_iou


def box_losses(shares: Tensor, truth: Tensor) -> Tensor:
    """|b - b*|_1 + 1 - GIoU `(B,)` of boxes `(B, 4)`: centers, width and height as shares of the sides."""
    boxes, goals = (as_corners(one, "cxcywh")[:, None] for one in (shares, truth))  # (B, 1, 4)
    return (shares - truth).abs().sum(1) + 1.0 - generalized_iou(boxes, goals)[:, 0, 0]


class Localizer(Described):
    """The class and the box of an image.

    Args:
        backbone: any network of images.
        shape: `(C, H, W)` of an image.
        classes: names of the classes.
    """

    kind = "localizer"

    def __init__(self, backbone: Backbone | nn.Module, shape: Sequence[int], classes: Sequence[str]) -> None:
        super().__init__()
        self.backbone, self.shape, self.classes = backbone, tuple(map(int, shape)), tuple(classes)
        features = int(backbone.feature_dim)  # type: ignore[arg-type]
        self.class_head, self.box_head = nn.Linear(features, len(self.classes)), nn.Linear(features, 4)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(B, classes)`, and boxes `(B, 4)` as shares: center, width and height."""
        features = self.backbone(image)
        return self.class_head(features), self.box_head(features).sigmoid()

    def answer(self, image: Tensor) -> Tensor:
        """One detection `(B, 1, 6)`: corners in pixels, cut off at the borders, score and class."""
        logits, shares = self(image)
        height, width = self.shape[1:]
        boxes = as_corners(shares, "cxcywh").clamp(0.0, 1.0) * shares.new_tensor([width, height, width, height])
        score, label = logits.softmax(1).max(1)
        found: Tensor = torch.cat([boxes, score[:, None], label[:, None].to(boxes.dtype)], 1)[:, None]
        return found

    def describe(self, answer: Tensor) -> str:
        """The detection `(1, 6)` in one image in words."""
        x1, y1, x2, y2, score, label = answer[0].tolist()
        return f"{self.classes[int(label)]} ({score:.3f}) at {x1:.1f}, {y1:.1f}, {x2:.1f}, {y2:.1f}"


@dataclass(frozen=True, kw_only=True)
class LocalizationConfig(Optimized):
    """The numbers of a localization's run."""

    learning_rate: Rate = Cosine(2e-3)
    """Learning rate: a number or a schedule."""
    batch_size: Count = 32
    """Pictures per update."""
    box: NonNegative = 1.0
    """Weight of the box's terms of the loss."""
    net_arch: tuple[int, ...] = (16, 32, 64, 64)
    """Channels of the network's convolutions, each of which halves the sides, while these are above 4."""

    def network(self, shape: Sequence[int]) -> CNN:
        """The network of images `(C, H, W)` that "auto" means."""
        layers = [(width, 3, 2 if min(shape[1:]) >> i > 4 else 1, 1) for i, width in enumerate(self.net_arch)]
        return CNN(shape, layers, norm="group")


class Localization(Learner):
    """Learns the class and the box of the object of a picture."""

    targets = "boxes"
    sides: Tensor

    def __init__(
        self, network: Localizer, optimizer: Optimizer, config: LocalizationConfig = LocalizationConfig()
    ) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.step = Step(network, optimizer, config.max_grad_norm)
        height, width = network.shape[1:]
        self.register_buffer("sides", torch.tensor([width, height] * 2, dtype=torch.float32), persistent=False)

    @classmethod
    def build(cls, backbone: nn.Module, config: LocalizationConfig, facts: SceneFacts) -> Self:
        """A localizer on a network of images.

        Raises:
            ValueError: a training picture is without an object.
        """
        empty = (facts.train.counts == 0).nonzero()
        if len(empty):
            raise ValueError(f"training picture {int(empty[0])} shows no object: localization needs one in each")
        return cls(Localizer(backbone, facts.shape, facts.classes), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """One detection `(B, 1, 6)`: corners, score and class."""
        return self.network.answer(x)

    def update(self, batch: Examples) -> Update:
        """One step on the loss of a batch; `per_sample` holds the losses `(B,)`."""
        assert batch.y is not None
        first = batch.y[:, 0]  # (B, 5)
        corners = first[:, :4] / self.sides
        truth = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2.0, corners[:, 2:] - corners[:, :2]], 1)
        logits, shares = self.network(batch.x)
        boxes = box_losses(shares, truth)
        losses = functional.cross_entropy(logits, first[:, 4].long(), reduction="none") + self.config.box * boxes
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        metrics = {"loss": loss.detach(), "box_loss": boxes.detach().mean(), "grad_norm": norm}
        return Update(metrics, losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: one shape in 16x16 pixels, two layers of 8."""
        data = shape_scenes(24, size=16, most=1)
        config = LocalizationConfig(batch_size=8, net_arch=(8, 8))
        return RECIPE.tiny(cls, config, seed, data=ScenesParts(data, data, data), backbone="mlp")


RECIPE = Recipe(
    "localization",
    Localization,
    LocalizationConfig,
    on_scenes,
    "class and box of the one object of a picture, by an overlap that has a gradient (Rezatofighi et al. 2019)",
    steps=2_000,
)
