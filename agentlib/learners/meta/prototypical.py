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
from agentlib.data.episodes import Episodes, Pairs, Tasks
from agentlib.families.tasks import FewShot, TaskFacts, on_tasks
from agentlib.metrics.targets import labels_for


def prototypes(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """The mean `(..., ways, d)` of each class's features `(..., n, d)`, by labels `(..., n)`."""
    member = (labels[..., None, :] == torch.arange(ways, device=labels.device)[:, None]).to(features)  # (..., ways, n)
    return member @ features / member.sum(-1, keepdim=True)


def checked_support(support: Pairs, ways: int) -> Pairs:
    """The support with labels `(tasks, n)` as int64.

    Raises:
        ValueError: they do not fit; or a class of 0 .. ways - 1 has no example in some task, or another class has one.
    """
    labels = labels_for(support.x.shape[:2], support.y, name="support.y").to(support.x.device)
    for task, row in enumerate(labels.tolist()):
        missing, others = sorted(set(range(ways)) - set(row)), sorted(set(row) - set(range(ways)))
        if missing or others:
            without = f"class {missing[0]} has no example" if missing else f"label {others[0]} is none of the classes"
            raise ValueError(
                f"the support of task {task} has the labels {sorted(set(row))}, and the classes are "
                f"0 to {ways - 1}: {without}. Number the classes of each task from 0, such as by "
                "labels.unique(return_inverse=True)[1]"
            )
    return support._replace(y=labels)


def distance_logits(features: Tensor, centers: Tensor) -> Tensor:
    """-|f - c|^2, `(..., n, ways)`, of features `(..., n, d)` and prototypes `(..., ways, d)`."""
    products = 2.0 * features @ centers.mT  # (..., n, ways)
    squares = features.square().sum(-1)[..., :, None] + centers.square().sum(-1)[..., None, :]
    return products - squares


@dataclass(frozen=True, kw_only=True)
class PrototypicalConfig(FewShot):
    """The numbers of a prototypical network's run."""

    learning_rate: Rate = Cosine(2e-3)
    batch_size: Count = 1
    """Tasks per update."""
    ways: Annotated[int, Range(2)] = 20
    """Classes per task in training."""


class PrototypicalNetwork(Described):
    """A classifier of new classes by a few examples of each: a backbone, and the prototypes in its features.

    Args:
        backbone: from an example to features.
    """

    kind = "prototypical"

    def __init__(self, backbone: Backbone | nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

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
        return distance_logits(features[:, n:], prototypes(features[:, :n], support.y, ways))


class Prototypical(Learner):
    """Prototypical networks."""

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
            ValueError: tasks of regression.
        """
        if not facts.ways:
            raise ValueError("prototypes stand for classes, not for tasks of regression: give data with labels")
        return cls(PrototypicalNetwork(backbone), config.optimizer(), config)

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
        return distance_logits(tasks.query.x, prototypes(support.x, support.y, ways))

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
