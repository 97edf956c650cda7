"""Adversarial training (Madry et al. 2018, arXiv:1706.06083): learning on the worst examples near those at hand.

    min over w of  E[ max over ||d||_p <= epsilon  of  L(f_w(x + d), y) ]

The inner maximum is found by PGD (`attacks.py`), the outer step treats x + d as given: by Danskin's theorem its
gradient is that of the maximum. For a linear model f = w.x + b one step is exact, since the worst margin is known:
y f(x) - epsilon ||w||_q with 1/p + 1/q = 1, so that the loss is log(1 + exp(-(y f(x) - epsilon ||w||_q))).

`attack_steps=1` with a random start is "fast" adversarial training (Wong et al. 2020, arXiv:2001.03994), which may
collapse. With `average`, the model that is kept is a running average of the trained one (Rebuffi et al. 2021,
arXiv:2103.01946). The inner attack sees the model in training mode, as it is being trained; without dropout and batch
statistics, the default here, that is the same as eval mode. On a policy the examples are observations, the labels its
actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from agentlib.backbones import MLP, Schedule, adam
from agentlib.data import Batches, Dataset, Examples
from agentlib.learners.robustness.ascent import default_step_size, perturb
from agentlib.learners.robustness.norms import Norm
from agentlib.learners.supervised.classifier import cross_entropy, logistic_loss
from agentlib.learners.supervised.regularization import penalized, penalty
from agentlib.policies import CategoricalPolicy
from agentlib.policies.scores import logits_from
from agentlib.training import Learner, Step, Target, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer

DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}
"""q with 1/p + 1/q = 1."""


def robust_logistic_loss(margin: Tensor, weight: Tensor, epsilon: float, norm: Norm = "linf") -> Tensor:
    """The exact worst logistic loss of a linear model within epsilon, `(B,)`.

    Args:
        margin: y f(x), `(B,)`, with y in {-1, 1}.
        weight: of the linear model, any shape.
        epsilon: radius of the ball.
        norm: of the ball.
    """
    return logistic_loss(margin - epsilon * torch.linalg.vector_norm(weight, DUAL[norm]))


@dataclass(frozen=True, kw_only=True)
class AdversarialTrainingConfig:
    """All numbers of a run of adversarial training."""

    epsilon: float = 0.1
    """How far an example may be changed, in the scale of the data; without bounds, in standard deviations of it."""
    norm: Norm = "linf"
    """In which norm."""
    attack_steps: int = 7
    """Of the inner PGD; 1 is exact for linear models."""
    attack_step_size: float | None = None
    """Of each; by default epsilon for one step, else 2.5 epsilon / steps."""
    random_start: bool = True
    """Start the inner attack anywhere in the ball."""
    low: float | None = 0.0
    """Smallest value of the data; None with `high` None for data without bounds."""
    high: float | None = 1.0
    """Largest value of the data."""
    learning_rate: Schedule = 1e-3
    """Step size of Adam; a number or a schedule."""
    batch_size: int = 64
    """Examples per update."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; an empty one is logistic regression. By default 64 and 64, or what images get."""
    l2: float = 0.0
    """Strength of l2 sum W^2, beside the mean loss."""
    average: float = 0.0
    """Share of the average weights that stays at each update, such as 0.995; 0 keeps the last weights."""
    max_grad_norm: float | None = None
    """Gradients are cut to this norm; None leaves them."""
    patience: int | None = None
    """Evaluations under attack without a smaller loss, after which a run ends; None never."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "attack_steps", "batch_size", "patience")
        check_range(self, 0, math.inf, "epsilon", "attack_step_size", "learning_rate", "l2", "max_grad_norm")
        check_range(self, 0, 1, "average")
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high are both numbers, or both None")
        if self.bounds is not None and self.norm == "linf" and self.epsilon > self.bounds[1] - self.bounds[0]:
            raise ValueError(
                f"epsilon={self.epsilon:g} is more than the whole range of the data, {self.low:g} to {self.high:g}: of "
                f"8-bit images in 0 to 1 it would be {self.epsilon:g} / 255 = {self.epsilon / 255:.3g}"
            )

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Of the data."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class AdversarialTraining(Learner):
    """Learning on the worst examples within epsilon.

    Args:
        policy: a classifier or a policy with discrete actions: anything with logits `(B, K)`, such as
            `CategoricalPolicy` and `QPolicy`.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.
        scale: what one unit of epsilon is for each number of an example, such as its standard deviation; 1 by default.
    """

    scale: Tensor

    def __init__(
        self,
        policy: nn.Module,
        optimizer: Optimizer,
        config: AdversarialTrainingConfig = AdversarialTrainingConfig(),
        scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config, self.policy = config, policy
        self.register_buffer("scale", torch.ones(()) if scale is None else scale.detach().clone())
        self.averaged = Target(policy) if config.average else None
        self.step = Step(policy, optimizer, config.max_grad_norm)
        self.matrices = penalized(policy)

    @property
    def model(self) -> nn.Module:
        """What is kept: the average of the weights, or the last ones."""
        return self.policy if self.averaged is None else self.averaged.network

    def update(self, batch: Examples) -> Update:
        """One step on the loss of the changed batch; `per_sample` holds its losses `(B,)`."""
        config, y = self.config, batch.y
        assert y is not None

        def loss_at(x: Tensor) -> Tensor:
            return cross_entropy(logits_from(self.policy, self.policy(x)), y)

        changed = perturb(
            loss_at,
            batch.x,
            epsilon=config.epsilon,
            norm=config.norm,
            steps=config.attack_steps,
            step_size=config.attack_step_size or default_step_size(config.epsilon, config.attack_steps),
            bounds=config.bounds,
            scale=self.scale,
            random_start=config.random_start,
        )
        logits = logits_from(self.policy, self.policy(changed))  # (B, K)
        losses = cross_entropy(logits, y)
        loss = losses.mean() + penalty(self.matrices, l2=config.l2)
        norm = self.step(loss, batch.clock)
        if self.averaged is not None:
            self.averaged.follow(self.policy, 1.0 - config.average)
        accuracy = (logits.detach().argmax(1) == y).float().mean()
        return Update({"loss": loss.detach(), "robust_accuracy": accuracy, "grad_norm": norm}, losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Batches]:
        """The smallest honest run: three clouds of points in the unit square, one layer of 16."""
        config = AdversarialTrainingConfig(epsilon=0.05, attack_steps=2, batch_size=32, l2=1e-4, average=0.9)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            policy = CategoricalPolicy(MLP(2, hidden=(16,)), n_actions=3)
        labels, noise = torch.arange(96) % 3, torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
        points = (0.25 + 0.1 * noise + 0.5 * torch.eye(3, 2)[labels]).clamp(0.0, 1.0)
        data = Dataset(points, labels, ("right", "up", "corner"))
        return cls(policy, adam(1e-2), config), Batches(data, config.batch_size, seed=seed)
