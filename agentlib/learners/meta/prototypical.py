"""Prototypical networks (Snell et al. 2017, arXiv:1703.05175).

    c_k = mean of f(x) over the support of class k
    p(y = k | x) = softmax_k( -|f(x) - c_k|^2 )

A backbone is learned in whose features each class lies around its mean; a new class is then known from a few examples,
without any step of training. The distance is Euclid's squared one, which makes it a linear classifier of features, with
weights 2 c_k and biases -|c_k|^2. Training has more ways than testing, as in the paper.

    p(y = k | x) = sum over the support of class k of a(x, x_i),   a = softmax_i( cos(f(x), f(x_i)) / tau )

With a `temperature` tau the network is a matching network (Vinyals et al. 2016, arXiv:1606.04080), which compares with
each example. Theirs has tau = 1, whose probabilities stay near each other, and may read the whole support before it
compares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones import MLP, Backbone, Described
from agentlib.backbones.choice import space_of
from agentlib.core import Cosine, Learner, Optimizer, Recipe, Step, Update
from agentlib.core.config import Count, Range, Rate
from agentlib.core.randomness import fresh_weights
from agentlib.data import Dataset
from agentlib.data.episodes import Episodes, Pairs, Tasks, checked_support
from agentlib.families.tasks import FewShot, TaskFacts, on_tasks


def prototypes(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """The mean `(..., ways, d)` of each class's features `(..., n, d)`, by labels `(..., n)`."""
    member = (labels[..., None, :] == torch.arange(ways, device=labels.device)[:, None]).to(features)  # (..., ways, n)
    return member @ features / member.sum(-1, keepdim=True)


def distance_logits(features: Tensor, centers: Tensor) -> Tensor:
    """-|f - c|^2, `(..., n, ways)`, of features `(..., n, d)` and prototypes `(..., ways, d)`."""
    products = 2.0 * features @ centers.mT  # (..., n, ways)
    squares = features.square().sum(-1)[..., :, None] + centers.square().sum(-1)[..., None, :]
    return products - squares


def matching_logits(features: Tensor, support: Tensor, labels: Tensor, ways: int, temperature: float) -> Tensor:
    """log p(y | x), `(..., n, ways)`, by attention to the support.

    Args:
        features: `(..., n, d)`.
        support: `(..., m, d)`.
        labels: `(..., m)`, of the support.
        ways: classes; each has an example.
        temperature: of the attention.
    """
    cosines = functional.normalize(features, dim=-1) @ functional.normalize(support, dim=-1).mT  # (..., n, m)
    attention = (cosines / temperature).log_softmax(-1)[..., None, :]  # (..., n, 1, m)
    others = labels[..., None, None, :] != torch.arange(ways, device=labels.device)[:, None]  # (..., 1, ways, m)
    return attention.masked_fill(others, -math.inf).logsumexp(-1)


@dataclass(frozen=True, kw_only=True)
class PrototypicalConfig(FewShot):
    """The numbers of a prototypical network's run."""

    learning_rate: Rate = Cosine(2e-3)
    batch_size: Count = 1
    """Tasks per update."""
    ways: Annotated[int, Range(2)] = 20
    """Classes per task in training."""
    temperature: Annotated[float, Range(1e-3)] | None = None
    """Temperature of the attention of a matching network to single examples; None compares with prototypes."""


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(PrototypicalConfig):
    """The numbers of a matching network's run."""

    temperature: Annotated[float, Range(1e-3)] | None = 0.1


class PrototypicalNetwork(Described):
    """A classifier of new classes by a few examples of each: a backbone, and the prototypes in its features.

    Args:
        backbone: from an example to features.
        temperature: of the attention of a matching network; None compares with prototypes.
    """

    kind = "prototypical"

    def __init__(self, backbone: Backbone | nn.Module, temperature: float | None = None) -> None:
        super().__init__()
        self.backbone, self.temperature = backbone, temperature

    def forward(self, support: Pairs, x: Tensor, ways: int) -> Tensor:
        """Logits `(tasks, m, ways)` for examples `(tasks, m, ...)`, by the labelled ones `(tasks, n, ...)`.

        Raises:
            ValueError: in some task the labels are not those of the classes 0 .. ways - 1.
        """
        return self.logits(checked_support(support, ways), x, ways)

    def logits(self, support: Pairs, x: Tensor, ways: int) -> Tensor:
        """The same, without a look at the labels: tensor work alone, for inside an update."""
        n, both = support.x.shape[1], torch.cat([support.x, x], 1)
        features = self.backbone(both.flatten(0, 1)).unflatten(0, both.shape[:2])  # (tasks, n + m, d)
        return self.compared(features[:, n:], features[:, :n], support.y, ways)

    def compared(self, features: Tensor, support: Tensor, labels: Tensor, ways: int) -> Tensor:
        """Logits `(tasks, m, ways)` of features `(tasks, m, d)` by the support's `(tasks, n, d)` and its labels."""
        if self.temperature is None:
            return distance_logits(features, prototypes(support, labels, ways))
        return matching_logits(features, support, labels, ways, self.temperature)


class Prototypical(Learner):
    """Prototypical networks, and matching networks."""

    is_mean_over_samples = True

    def __init__(
        self, network: PrototypicalNetwork, optimizer: Optimizer, config: PrototypicalConfig = PrototypicalConfig()
    ) -> None:
        super().__init__()
        self.config, self.network = config, network
        self.step = Step(network, optimizer, config.max_grad_norm)

    @classmethod
    def build(cls, backbone: nn.Module, config: PrototypicalConfig, facts: TaskFacts) -> Self:
        """Prototypes in the features of a backbone.

        Raises:
            ValueError: tasks of regression, or of another number of classes than `config.ways`.
        """
        if not facts.ways:
            raise ValueError("prototypes stand for classes, not for tasks of regression: give data with labels")
        if facts.ways != config.ways:
            raise ValueError(f"tasks have {facts.ways} classes, and config.ways is {config.ways}: make them the same")
        return cls(PrototypicalNetwork(backbone, config.temperature), config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """The backbone's features `(B, d)`."""
        features: Tensor = self.network.backbone(x)
        return features

    def classify(self, tasks: Tasks) -> Tensor:
        """Logits `(tasks, m, ways)` of queries by the support, both of them features, for any number of classes.

        Raises:
            ValueError: in some task a class from 0 to the largest label has no example.
        """
        ways = int(tasks.support.y.max()) + 1
        support = checked_support(tasks.support, ways)
        return self.network.compared(tasks.query.x, support.x, support.y, ways)

    def update(self, batch: Tasks) -> Update:
        """One step on the queries' cross-entropy; `per_sample` holds it for each task `(tasks,)`."""
        logits = self.network.logits(batch.support, batch.query.x, self.config.ways)  # (tasks, m, ways)
        losses = functional.cross_entropy(logits.mT, batch.query.y, reduction="none").mean(1)  # (tasks,)
        loss = losses.mean()
        norm = self.step(loss, batch.clock)
        accuracy = (logits.argmax(-1) == batch.query.y).float().mean()
        return Update({"loss": loss.detach(), "accuracy": accuracy, "grad_norm": norm}, per_sample=losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Episodes]:
        """The smallest honest run: eight clusters of points on a circle, which differ in their angle alone."""
        config = PrototypicalConfig(learning_rate=1e-3, ways=4, batch_size=2)
        generator = torch.Generator().manual_seed(0)
        angle = torch.arange(8).repeat_interleave(12) * (math.pi / 4)
        length = 0.5 + torch.rand(96, generator=generator)
        points = length[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        data = Dataset(points, torch.arange(8).repeat_interleave(12), tuple("ABCDEFGH"))
        with fresh_weights(seed):
            learner = cls.build(MLP(2, hidden=(16, 16)), config, TaskFacts(config.ways, space_of(points)))
        return learner, Episodes(data, config.ways, config.shots, config.queries, config.batch_size, seed)


RECIPE = Recipe(
    "prototypical",
    Prototypical,
    PrototypicalConfig,
    on_tasks,
    "prototypical networks (Snell et al. 2017), classes from few examples",
    steps=1_200,
    presets={"digits": {"ways": 5, "held_out": 0.5}},
)
MATCHING = replace(
    RECIPE,
    name="matching",
    config=MatchingConfig,
    summary="matching networks (Vinyals et al. 2016), classes by attention to few examples",
)
