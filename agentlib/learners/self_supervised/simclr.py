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
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import MLP, Backbone, Cosine, Schedule, adam
from agentlib.data import Batches, Examples
from agentlib.training import Learner, Step, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer


def nt_xent_logits(z: Tensor, temperature: float) -> Tensor:
    """Cosines over the temperature, `(2N, 2N)`, of projections `(2N, d)`; -inf for each one with itself."""
    unit = functional.normalize(z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return (unit @ unit.T / temperature).masked_fill(itself, -math.inf)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The losses `(2N,)` of the views in `first` `(N, d)`, then in `second` `(N, d)`; row i of both is one example."""
    logits = nt_xent_logits(torch.cat([first, second]), temperature)
    return functional.cross_entropy(logits, partners(len(first), first.device), reduction="none")


def partners(n: int, device: torch.device) -> Tensor:
    """For each of 2N views the other view of its example: N, ..., 2N - 1, 0, ..., N - 1."""
    return torch.arange(2 * n, device=device).roll(n)


@dataclass(frozen=True, kw_only=True)
class SimCLRConfig:
    """All numbers of a SimCLR run."""

    learning_rate: Schedule = Cosine(1e-3, 0.0)
    """Step size of Adam; a number or a schedule."""
    batch_size: int = 256
    """Examples per update; each is seen in two views."""
    temperature: float = 0.5
    """tau: the smaller, the more the nearest others count."""
    projection_dim: int = 64
    """Width of what the loss sees."""
    max_grad_norm: float | None = None
    """Gradients are cut to this norm; None leaves them."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers, for backbones that have such."""
    shift: int = 1
    """Views are moved by up to so many pixels, each way."""
    rotation: float = 15.0
    """Views are turned by up to so many degrees, either way."""
    crop: float = 1.0
    """Views show a box of at least this share of the area; 1 shows all."""
    flip: bool = False
    """Half of the views have left and right exchanged."""
    brightness: float = 0.0
    """Up to so much is added to the pixels of a view, or taken away."""
    contrast: float = 0.0
    """The contrast of a view grows or shrinks by up to this share."""
    noise: float = 0.1
    """Standard deviation of what is added to each pixel of a view."""

    def __post_init__(self) -> None:
        check_range(self, 2, math.inf, "batch_size")
        check_range(self, 1, math.inf, "projection_dim")
        check_range(self, 1e-3, math.inf, "temperature")
        check_range(self, 0, math.inf, "learning_rate", "max_grad_norm", "shift", "rotation", "brightness", "noise")
        check_range(self, 0, 1, "contrast")
        check_range(self, 0.01, 1, "crop")


class Projector(nn.Module):
    """A backbone under a head that is thrown away after pretraining: g(h) = W relu(V h + a) + b.

    Args:
        backbone: any network with a `feature_dim`.
        dim: width of the projections.
    """

    def __init__(self, backbone: Backbone | nn.Module, dim: int) -> None:
        super().__init__()
        self.backbone, width = backbone, int(backbone.feature_dim)  # type: ignore[arg-type]
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Projections `(B, dim)`."""
        projections: Tensor = self.head(self.backbone(x))
        return projections


class SimCLR(Learner):
    """Contrastive learning of features.

    Args:
        network: the backbone that is pretrained, under its projection.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.
    """

    def __init__(self, network: Projector, optimizer: Optimizer, config: SimCLRConfig = SimCLRConfig()) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    def update(self, batch: Examples) -> Update:
        """One step on two views `(2, N, ...)`; `per_sample` holds the loss of each example `(N,)`."""
        n = batch.x.shape[1]
        z = self.network(batch.x.flatten(0, 1))  # (2N, d)
        logits, partner = nt_xent_logits(z, self.config.temperature), partners(n, z.device)
        losses = functional.cross_entropy(logits, partner, reduction="none")  # (2N,)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        found = (logits.argmax(1) == partner).float().mean()
        # Of a direction in d dimensions each coordinate varies by 1 / sqrt(d); where all collapsed, by nothing.
        spread = functional.normalize(z.detach(), dim=1).std(0).mean() * math.sqrt(z.shape[1])
        metrics = {"loss": loss.detach(), "accuracy": found, "spread": spread, "grad_norm": norm}
        return Update(metrics, per_sample=losses.detach().view(2, n).mean(0))

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Batches]:
        """The smallest honest run: four noisy bars in 6 x 6 pixels, an MLP of 16."""
        from agentlib.data import Dataset
        from agentlib.data.augmentation import Augmentation, RandomNoise, RandomShift

        config = SimCLRConfig(batch_size=16, projection_dim=8)
        bars = torch.zeros(32, 1, 6, 6)
        bars[torch.arange(32), 0, 1 + torch.arange(32) % 4] = 1.0
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            network = Projector(MLP(36, hidden=(16,)), config.projection_dim)
        views = Augmentation(RandomShift(1), RandomNoise(0.1))
        return cls(network, adam(1e-3), config), Batches(
            Dataset(bars), config.batch_size, transform=views, views=2, seed=seed
        )
