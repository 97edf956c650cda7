"""Prototypical networks (Snell et al. 2017, arXiv:1703.05175).

    c_k = mean of f(x) over the support of class k
    p(y = k | x) = softmax_k( -|f(x) - c_k|^2 )

A backbone is learned in whose features each class lies around its mean; a new class is then known from a few examples,
without any step of training. The distance is Euclid's squared one, which makes it a linear classifier of features, with
weights 2 c_k and biases -|c_k|^2. Training has more ways than testing, as in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import MLP, Backbone, Cosine, Schedule, adam
from agentlib.data import Dataset
from agentlib.data.episodes import Episodes, Pairs, Tasks
from agentlib.training import Learner, Step, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer


def prototypes(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """The mean `(..., ways, d)` of each class's features `(..., n, d)`, by labels `(..., n)`."""
    member = (labels[..., None, :] == torch.arange(ways, device=labels.device)[:, None]).to(features)  # (..., ways, n)
    return member @ features / member.sum(-1, keepdim=True)


def distance_logits(features: Tensor, centers: Tensor) -> Tensor:
    """-|f - c|^2, `(..., n, ways)`, of features `(..., n, d)` and prototypes `(..., ways, d)`."""
    products = 2.0 * features @ centers.mT  # (..., n, ways)
    squares = features.square().sum(-1)[..., :, None] + centers.square().sum(-1)[..., None, :]
    return products - squares


@dataclass(frozen=True, kw_only=True)
class PrototypicalConfig:
    """All numbers of a prototypical network's run."""

    learning_rate: Schedule = Cosine(2e-3, 0.0)
    """Step size of Adam; a number or a schedule."""
    batch_size: int = 1
    """Tasks per update."""
    ways: int = 20
    """Classes per task in training."""
    shots: int = 1
    """Examples of each class to learn it from."""
    queries: int = 5
    """Examples of each class to be judged on."""
    held_out: float = 0.2
    """Share of the classes that training never sees, for the result."""
    max_grad_norm: float | None = None
    """Gradients are cut to this norm; None leaves them."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers, for backbones that have such."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size", "shots", "queries")
        check_range(self, 2, math.inf, "ways")
        check_range(self, 0, math.inf, "learning_rate", "max_grad_norm")
        check_range(self, 0, 1, "held_out")


class PrototypicalNetwork(nn.Module):
    """A classifier of what it has seen a few examples of: a backbone, and the prototypes in its features.

    Args:
        backbone: from an example to features.
    """

    def __init__(self, backbone: Backbone | nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, support: Pairs, x: Tensor, ways: int) -> Tensor:
        """Logits `(tasks, m, ways)` for examples `(tasks, m, ...)`, by the labelled ones `(tasks, n, ...)`."""
        n, both = support.x.shape[1], torch.cat([support.x, x], 1)
        features = self.backbone(both.flatten(0, 1)).unflatten(0, both.shape[:2])  # (tasks, n + m, d)
        return distance_logits(features[:, n:], prototypes(features[:, :n], support.y, ways))


class Prototypical(Learner):
    """Prototypical networks.

    Args:
        network: the classifier that is trained.
        optimizer: a rule such as `adam(learning_rate=2e-3)`.
        config: this algorithm's numbers.
    """

    def __init__(
        self, network: PrototypicalNetwork, optimizer: Optimizer, config: PrototypicalConfig = PrototypicalConfig()
    ) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    def update(self, batch: Tasks) -> Update:
        """One step on the queries' cross-entropy; `per_sample` holds it for each task `(tasks,)`."""
        logits = self.network(batch.support, batch.query.x, self.config.ways)  # (tasks, m, ways)
        losses = functional.cross_entropy(logits.mT, batch.query.y, reduction="none").mean(1)  # (tasks,)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        accuracy = (logits.argmax(-1) == batch.query.y).float().mean()
        return Update({"loss": loss.detach(), "accuracy": accuracy, "grad_norm": norm}, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Episodes]:
        """The smallest honest run: eight clusters of points on a circle, told apart by angle alone."""
        config = PrototypicalConfig(ways=4, batch_size=2)
        generator = torch.Generator().manual_seed(0)
        angle = torch.arange(8).repeat_interleave(12) * (math.pi / 4)
        length = 0.5 + torch.rand(96, generator=generator)
        points = length[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        data = Dataset(points, torch.arange(8).repeat_interleave(12), tuple("ABCDEFGH"))
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            network = PrototypicalNetwork(MLP(2, hidden=(16, 16)))
        source = Episodes(data, config.ways, config.shots, config.queries, config.batch_size, seed)
        return cls(network, adam(1e-3), config), source
