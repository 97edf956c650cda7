"""Contrastive learning of features (SimCLR; Chen et al. 2020, arXiv:2002.05709).

    l(i, j) = -log( exp(s(i, j) / tau) / sum_{k != i} exp(s(i, k) / tau) ),   s(i, k) = cos(z_i, z_k)

i and j are two views of one example, and the mean goes over all 2N views of N examples: each view must find its partner
among the 2N - 1 others. z = g(f(x)): the loss sees the projection g, later use has the backbone f alone.

The similarity of a view with itself is left out of the sum, as in the paper: where all z are equal the loss is
ln(2N - 1), and a loss that stays there has collapsed. The lecture notes write exp(z'z + c) for exp(cos / tau). Adam in
place of LARS, since our batches are small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import Backbone, Described
from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import Count, Range
from agentlib.data import Dataset, Examples
from agentlib.families.views import ViewFacts, Views, on_views
from agentlib.metrics.features import spread


def nt_xent_logits(z: Tensor, temperature: float) -> Tensor:
    """Cosines over the temperature, `(2N, 2N)`, of projections `(2N, d)`; -inf for each one with itself."""
    unit = functional.normalize(z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return (unit @ unit.T / temperature).masked_fill(itself, -math.inf)


def nt_xent(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The losses `(2N,)`, and for each of the 2N views the other view of its example: N, ..., 2N - 1, 0, ..., N - 1."""
    partner = torch.arange(len(logits), device=logits.device).roll(len(logits) // 2)
    return functional.cross_entropy(logits, partner, reduction="none"), partner


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig(Views):
    """The numbers of a SimCLR run."""

    temperature: Annotated[float, Range(1e-3)] = 0.5
    """Temperature tau of the softmax: the smaller, the more the most similar other views count."""
    projection_dim: Count = 64
    """Width of the projections that the loss compares."""


class Projector(Described):
    """A backbone under a head that is thrown away after pretraining: g(h) = W relu(V h + a) + b.

    Args:
        backbone: any network with a `feature_dim`.
        dim: width of the projections.
        batch_norm: BatchNorm before the ReLU.
    """

    kind = "projector"

    def __init__(self, backbone: Backbone | nn.Module, dim: int, batch_norm: bool = False) -> None:
        super().__init__()
        self.dim, self.batch_norm = int(dim), bool(batch_norm)
        self.backbone, width = backbone, int(backbone.feature_dim)  # type: ignore[arg-type]
        norm = [nn.BatchNorm1d(width)] if batch_norm else []
        self.head = nn.Sequential(nn.Linear(width, width), *norm, nn.ReLU(), nn.Linear(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Projections `(B, dim)`."""
        projections: Tensor = self.head(self.backbone(x))
        return projections


class SimCLR(Learner):
    """Contrastive learning of features."""

    def __init__(self, network: Projector, optimizer: Optimizer, config: SimCLRConfig = SimCLRConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: SimCLRConfig, facts: ViewFacts) -> Self:
        return cls(Projector(backbone, config.projection_dim), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """The backbone's features `(B, feature_dim)`."""
        features: Tensor = self.network.backbone(x)
        return features

    def update(self, batch: Examples) -> Update:
        """One step on two views `(2, N, ...)`; `per_sample` holds the loss of each example `(N,)`."""
        n = batch.x.shape[1]
        z = self.network(batch.x.flatten(0, 1))  # (2N, d)
        logits = nt_xent_logits(z, self.config.temperature)
        losses, partner = nt_xent(logits)  # (2N,)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        accuracy = (logits.argmax(1) == partner).float().mean()
        metrics = {"loss": loss.detach(), "accuracy": accuracy, "spread": spread(z.detach()), "grad_norm": norm}
        return Update(metrics, per_sample=losses.detach().view(2, n).mean(0))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: four noisy bars in 6 x 6 pixels, an MLP of 16."""
        config = SimCLRConfig(learning_rate=1e-3, batch_size=16, projection_dim=8, rotation=0.0)
        bars = torch.zeros(32, 1, 6, 6)
        bars[torch.arange(32), 0, 1 + torch.arange(32) % 4] = 1.0
        backbone = {"name": "mlp", "arguments": {"input_dim": 36, "hidden": [16]}}
        return RECIPE.tiny(cls, config, seed, data=Dataset(bars), backbone=backbone)


RECIPE = Recipe(
    "simclr",
    SimCLR,
    SimCLRConfig,
    on_views,
    "contrastive learning of features without labels (Chen et al. 2020), images",
    steps=1_000,
    presets={"digits": {"net_arch": (512, 512, 128)}},
)
