"""Spatial context: where one part of an image lies beside another (Doersch et al. 2015, arXiv:1505.05192).

    L = -log p(place | f(centre), f(neighbour)),     place one of the eight around the centre

To know where a part belongs, features have to know what it is a part of. Parts do not touch and tremble a little, so
that no line that goes on from one to the other tells the place. Guessing has the loss ln 8.

Parts are stretched to the size of the image, so that f takes whole images as well. The paper hides colours at random,
too, by which a lens would tell where a part was. Of small digits most parts are empty, and the places of these cannot
be told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count
from agentlib.data import Dataset, Examples
from agentlib.data.augmentation import crop
from agentlib.families.views import ViewFacts, Views, on_views
from agentlib.learners.self_supervised.simclr import Projector
from agentlib.metrics.features import spread

PLACES = 8
PART, STRIDE, TREMBLE = 0.26, 0.34, 0.03
"""Side of a part, distance from one to the next, and how far it is moved at most, as shares of the image's side."""


def parts_at(images: Tensor, place: Tensor, tremble: Tensor) -> Tensor:
    """The parts at places of images `(B, C, H, W)`, each stretched to the whole.

    Args:
        images: `(B, C, H, W)`.
        place: `(B,)` of 3 x 3 by rows, 0 to 8; 4 is the centre.
        tremble: `(2, B)`, added to top and left.
    """
    top, left = (
        TREMBLE + STRIDE * index.to(by) + by for index, by in zip((place // 3, place % 3), tremble, strict=True)
    )
    side = torch.full_like(top, PART)
    return crop(images, top, left, side, side)


@dataclass(frozen=True, kw_only=True)
class ContextConfig(Views):
    """The numbers of a run that predicts places."""

    projection_dim: Count = 64
    """Width of the projection of each part."""


class Context(Learner):
    """Features by which the places of parts are told."""

    views = 1

    def __init__(self, network: Projector, optimizer: Optimizer, config: ContextConfig = ContextConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(2 * network.dim, PLACES))
        self.step = Step([network, self.head], optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: ContextConfig, facts: ViewFacts) -> Self:
        return cls(Projector(backbone, config.projection_dim), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """The backbone's features `(B, feature_dim)` of whole images."""
        features: Tensor = self.network.backbone(x)
        return features

    def update(self, batch: Examples) -> Update:
        """One step on images `(B, C, H, W)`; `per_sample` holds the loss of each, `(B,)`."""
        n, device = len(batch.x), batch.x.device
        label = torch.randint(PLACES, (n,), device=device)
        by = TREMBLE * (2.0 * torch.rand(2, 2, n, dtype=torch.float32, device=device) - 1.0)
        centre = parts_at(batch.x, torch.full_like(label, PLACES // 2), by[0])
        neighbour = parts_at(batch.x, label + (label >= PLACES // 2), by[1])
        z = self.network(torch.cat([centre, neighbour]))  # (2B, d)
        logits = self.head(torch.cat(z.chunk(2), 1))  # (B, 8)
        losses = functional.cross_entropy(logits, label, reduction="none")  # (B,)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        accuracy = (logits.argmax(1) == label).float().mean()
        metrics = {"loss": loss.detach(), "accuracy": accuracy, "spread": spread(z.detach()), "grad_norm": norm}
        return Update(metrics, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: images that grow brighter to the right and to the bottom, an MLP of 16."""
        config = ContextConfig(learning_rate=3e-3, batch_size=16, projection_dim=8, shift=0, rotation=0.0, noise=0.01)
        ramp = torch.arange(9.0) / 16.0
        images = (ramp[:, None] + 0.5 * ramp).expand(32, 1, 9, 9) * torch.linspace(0.9, 1.1, 32)[:, None, None, None]
        backbone = {"name": "mlp", "arguments": {"input_dim": 81, "hidden": [16]}}
        return RECIPE.tiny(cls, config, seed, data=Dataset(images.clone()), backbone=backbone)


SUMMARY = "features that know where parts of an image lie (Doersch et al. 2015), images"
PRESETS = {"digits": {"net_arch": (512, 512, 128)}}
RECIPE = Recipe("context", Context, ContextConfig, on_views, SUMMARY, steps=1_000, presets=PRESETS)
