"""Softmax classification: logistic regression, and deep networks with its loss (Cox 1958; Bishop 2006, section 4.3).

    p(y = k | x) = exp(z_k) / sum_j exp(z_j)
    L = 1/N sum_i -w[y_i] log p(y_i | x_i) + l1 sum |W| + l2 sum W^2,        dL_i/dz = p - onehot(y_i)

The negative log likelihood is the cross-entropy of labels and predictions; minimizing it is maximum likelihood, and
with penalties it finds the most probable weights under a prior (`regularization.py`). Two classes are binary logistic
regression with the logit z_1 - z_0. Label smoothing (Szegedy et al. 2016, arXiv:1512.00567) takes the share eps of each
label from its class and spreads it evenly over all K classes. Images may be changed at random before (`Augmented`), and
be mixed together with their labels; `consistency` adds AugMix's divergence of predictions (`mixtures.py`).

The model is a `CategoricalPolicy`: an agent whose action is the class. So what attacks, calibrates or exports a policy
does so with a classifier.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from agentlib.core import Cosine, Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.config import NonNegative, Unit
from agentlib.data import Dataset, Examples, Splits
from agentlib.data.augmentation import Change
from agentlib.families.augmented import operations
from agentlib.families.examples import ExampleFacts, on_examples
from agentlib.learners.supervised.mixtures import Mixed, jensen_shannon, mixed_losses, mixed_with_labels
from agentlib.learners.supervised.regularization import Supervised, penalized, penalty
from agentlib.metrics.targets import labels_for
from agentlib.policies import CategoricalPolicy
from agentlib.policies.base import is_policy, require_no_memory


def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """-w[y] sum_k q_k log p_k for each example, `(B,)`, where q is the smoothed label.

    Args:
        logits: `(B, K)`, before the softmax.
        labels: `(B,)` integers.
        label_smoothing: share of each label that is spread over all classes.
        class_weights: w, `(K,)`. The mean over examples is not divided by their weights, as torch does it: batches of
            rare classes count more.
    """
    labels = labels_for(logits.shape[:1], labels)
    losses = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return losses if class_weights is None else class_weights[labels] * losses


def balanced_weights(labels: Tensor | NDArray[Any], n_classes: int) -> tuple[float, ...]:
    """N / (K n_k) for each of the K classes that occur, 0 for others: all weigh the same, the average example 1."""
    labels = labels_for((len(labels),), labels, n_classes)
    counts = torch.bincount(labels, minlength=n_classes).double()
    weights = torch.full_like(counts, len(labels)) / (counts * (counts > 0).sum())
    return tuple(weights.where(counts > 0, 0.0).tolist())


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(Mixed, Supervised):
    """The numbers of a classifier's run."""

    label_smoothing: Unit = 0.0
    """Share of each label that is spread evenly over all classes."""
    class_weights: tuple[float, ...] | Literal["balanced"] | None = None
    """Weight of each class in the loss; "balanced" gives all classes the same total weight."""
    consistency: NonNegative = 0.0
    """Weight of the divergence of the predictions on an image and on two copies changed by `augment`; AugMix has 12."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.consistency and self.augment is None:
            raise ValueError(
                'consistency is between copies of an image that `augment` changes: give augment="augmix", say'
            )

    def changes(self, with_operations: bool = True) -> list[Change]:
        """Those of the batch; with `consistency` the update makes those of `augment`."""
        return super().changes(with_operations and not self.consistency)


class Classifier(Learner):
    """Softmax classification by maximum likelihood; the actions of `policy` are the classes.

    Raises:
        ValueError: `class_weights` are not one number for each class, or the policy has memory.
    """

    targets = "classes"
    class_weights: Tensor | None
    is_mean_over_samples = True
    can_be_stacked = True

    def __init__(
        self, policy: CategoricalPolicy, optimizer: Optimizer, config: ClassifierConfig = ClassifierConfig()
    ) -> None:
        super().__init__()
        require_no_memory(policy, "a classifier")
        self.config, self.policy = config, policy
        self.step = Step(policy, optimizer, config.max_grad_norm)
        self.matrices = penalized(policy)
        self.operations = operations(config.augment) if config.augment and config.consistency else None
        weights = config.class_weights
        if weights is not None and (weights == "balanced" or len(weights) != policy.n_actions):
            raise ValueError(f"class_weights are one number for each of the {policy.n_actions} classes, as "
                             f"balanced_weights gives them for a data set, not {weights!r}")  # fmt: skip
        self.register_buffer("class_weights", None if weights is None else torch.tensor(weights, dtype=torch.float32))

    @classmethod
    def build(cls, backbone: nn.Module, config: ClassifierConfig, facts: ExampleFacts) -> Self:
        """A classifier on a backbone, or of a policy that is one already."""
        policy: Any = backbone
        if not is_policy(backbone):
            policy = CategoricalPolicy(backbone, facts.n_classes)
            policy.observe(facts.train.x)
        if config.class_weights == "balanced":
            config = replace(config, class_weights=balanced_weights(facts.train.targets, facts.n_classes))
        return cls(policy, config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        logits: Tensor = self.policy(x)[0]
        return logits

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy `(B,)` of logits with labels, without smoothing and weights."""
        return cross_entropy(output, target)

    def update(self, batch: Examples) -> Update:
        """One step on the loss of a batch; `per_sample` holds the losses `(B,)`."""
        assert batch.y is not None
        x, share, others = mixed_with_labels(batch.x, batch.y, self.config, self.ranks)
        logits, _ = self.policy(x)  # (B, K)
        smoothing, weights = self.config.label_smoothing, self.class_weights
        losses = mixed_losses(lambda y: cross_entropy(logits, y, smoothing, weights), batch.y, share, others)
        if self.operations is not None:
            changed, _ = self.policy(torch.cat([self.operations(x), self.operations(x)]))
            losses = losses + self.config.consistency * jensen_shannon(torch.stack([logits, *changed.chunk(2)]))
        loss = losses.mean() + penalty(self.matrices, self.config.l1, self.config.l2)
        norm = self.step(loss, batch.clock)
        accuracy = (logits.detach().argmax(1) == batch.y).float().mean()
        return Update({"loss": loss.detach(), "accuracy": accuracy, "grad_norm": norm}, losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: three clouds of points in the plane, one layer of 16."""
        labels = torch.arange(96) % 3
        points = 2.0 * torch.eye(3, 2)[labels] + torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
        data = Dataset(points, labels, ("right", "up", "middle"))
        loss: Any = {"label_smoothing": 0.1, "class_weights": (1.0, 2.0, 1.0), "l1": 1e-4, "l2": 1e-4}
        config = ClassifierConfig(learning_rate=1e-2, batch_size=32, net_arch=(16,), normalize=False, **loss)
        return RECIPE.tiny(cls, config, seed, data=Splits(data, data, data))


RECIPE = Recipe(
    "classifier",
    Classifier,
    ClassifierConfig,
    on_examples,
    "softmax classification, from logistic regression to deep networks",
    steps=2_000,
    presets={
        "digits": {"learning_rate": Cosine(2e-3), "steps": 1_000},
        "breast_cancer": {"net_arch": (), "l2": 1e-3, "steps": 1_000},
    },
)
