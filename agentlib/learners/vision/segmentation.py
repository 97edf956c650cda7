"""Segmentation: the class of each pixel, by a U-Net (Ronneberger et al. 2015, arXiv:1505.04597).

    L = 1/n sum_i -log p_i(y_i)  +  w (1 - 1/K sum_c Dice_c)
    Dice_c = (2 sum_i p_i(c) [y_i = c] + 1) / (sum_i p_i(c) + sum_i [y_i = c] + 1)

i goes over the pixels of a batch, c over background and classes. The second term (Milletari et al. 2016,
arXiv:1606.04797) weighs all classes alike, however few pixels they have. We differ: its sums in the denominator are of
p and not of p^2, as most do since; the cross-entropy has no weights for borders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones.pixels import PixelNetwork
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import NonNegative
from agentlib.data import Examples, ScenesParts, shape_scenes
from agentlib.families.scenes import SceneFacts, on_scenes
from agentlib.learners.vision.pixels import OfPixels


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 less the mean Dice coefficient of all classes, 0-dim; logits `(B, K, H, W)`, labels `(B, H, W)`."""
    p = logits.softmax(1)
    classes = torch.arange(logits.shape[1], device=labels.device)
    truth = (labels[:, None] == classes[:, None, None]).to(p.dtype)  # (B, K, H, W)
    shared, total = (p * truth).sum((0, 2, 3)), (p + truth).sum((0, 2, 3))
    return 1.0 - ((2.0 * shared + 1.0) / (total + 1.0)).mean()


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(OfPixels):
    """The numbers of a segmentation's run."""

    dice: NonNegative = 1.0
    """Weight of the Dice term of the loss."""


class Segmentation(Learner):
    """Learns the class of each pixel."""

    targets = "masks"

    def __init__(
        self, network: PixelNetwork, optimizer: Optimizer, config: SegmentationConfig = SegmentationConfig()
    ) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: SegmentationConfig, facts: SceneFacts) -> Self:
        """A segmentation with a network of images under its head."""
        network = PixelNetwork(backbone, facts.shape, 1 + len(facts.classes), facts.classes)
        return cls(network, config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """Logits `(B, 1 + classes, H, W)`, background first."""
        logits: Tensor = self.network(x)
        return logits

    def update(self, batch: Examples) -> Update:
        """One step on the loss of a batch; `per_sample` holds the cross-entropies of pictures `(B,)`."""
        assert batch.y is not None
        logits = self.network(batch.x)  # (B, K, H, W)
        losses = functional.cross_entropy(logits, batch.y, reduction="none").mean((1, 2))
        dice = dice_loss(logits, batch.y)
        loss = losses.mean() + self.config.dice * dice
        norm = self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "dice_loss": dice.detach(), "grad_norm": norm}, losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: shapes of 16x16, a U-Net of two sizes."""
        data = shape_scenes(24, size=16, most=2)
        config = SegmentationConfig(batch_size=4, net_arch=(8, 8))
        return RECIPE.tiny(cls, config, seed, data=ScenesParts(data, data, data))


RECIPE = Recipe(
    "segmentation",
    Segmentation,
    SegmentationConfig,
    on_scenes,
    "the class of each pixel by a U-Net (Ronneberger et al. 2015), cross-entropy and Dice",
    steps=1_000,
)
