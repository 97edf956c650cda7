"""Regression: linear and deep, by squared or absolute errors (Legendre 1805; Hoerl & Kennard 1970 for ridge).

    e = (f(x) - y) / scale
    L = 1/N sum_i e_i^2   or   1/N sum_i |e_i|,   + l1 sum |W| + l2 sum W^2

Squared errors are maximum likelihood under normal noise, absolute ones under Laplace noise. A linear model with l2 is
ridge regression, the most probable weights under a Gaussian prior: W = (X'X + N l2 I)^-1 X'y; with l1 it is the lasso
(Tibshirani 1996). Errors are measured in the model's own scale, the deviation of the training targets, so that learning
rates and penalties mean the same for targets in euros and in cents.

The lecture notes call the norms ||f - y||_2 and ||f - y||_1 MSE and MAE: those are means, and the first has no root.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from agentlib.backbones import MLP, Schedule, adam
from agentlib.data import Batches, Dataset, Examples
from agentlib.learners.supervised.regularization import penalized, penalty
from agentlib.policies.predictor import Predictor
from agentlib.training import Learner, Step, Update
from agentlib.training.config import check_range
from agentlib.training.step import Optimizer

Loss = Literal["mse", "mae"]


def error_of(prediction: Tensor, target: Tensor, loss: Loss = "mse") -> Tensor:
    """The mean over k numbers of squared ("mse") or absolute ("mae") errors, `(B,)`; both arguments `(B, k)`."""
    error = prediction - target
    return (error.square() if loss == "mse" else error.abs()).mean(1)


@dataclass(frozen=True, kw_only=True)
class RegressorConfig:
    """All numbers of a regressor's run."""

    learning_rate: Schedule = 1e-3
    """Step size of Adam; a number or a schedule."""
    batch_size: int = 64
    """Examples per update; with as many as there are, every update sees all."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; an empty one is linear regression. By default 64 and 64, or what images get."""
    loss: Loss = "mse"
    """Squared or absolute errors."""
    l1: float = 0.0
    """Strength of l1 sum |W|, beside the mean loss."""
    l2: float = 0.0
    """Strength of l2 sum W^2, beside the mean loss; ridge's lambda is N times that."""
    max_grad_norm: float | None = None
    """Gradients are cut to this norm; None leaves them."""
    normalize: bool = True
    """Standardize vectors by the mean and deviation of the training part; images are left between 0 and 1."""
    patience: int | None = 10
    """Evaluations on the validation part (50 in a run) without a smaller loss, after which a run ends; None never."""

    def __post_init__(self) -> None:
        check_range(self, 1, math.inf, "batch_size", "patience")
        check_range(self, 0, math.inf, "learning_rate", "l1", "l2", "max_grad_norm")


class Regressor(Learner):
    """Regression by least squares or least absolute errors.

    Args:
        policy: the model.
        optimizer: a rule such as `adam(learning_rate=1e-3)`.
        config: this algorithm's numbers.
    """

    def __init__(self, policy: Predictor, optimizer: Optimizer, config: RegressorConfig = RegressorConfig()) -> None:
        super().__init__()
        self.config, self.policy = config, policy
        self.step = Step(policy, optimizer, config.max_grad_norm)
        self.matrices = penalized(policy)

    def update(self, batch: Examples) -> Update:
        """One step on the loss of a batch; `per_sample` holds the losses `(B,)`."""
        assert batch.y is not None
        prediction, _ = self.policy(batch.x)  # (B, k)
        scale = self.policy.scale
        losses = error_of(prediction / scale, batch.y.reshape(prediction.shape) / scale, self.config.loss)
        loss = losses.mean() + penalty(self.matrices, self.config.l1, self.config.l2)
        norm = self.step(loss, batch.clock)
        return Update({"loss": loss.detach(), "grad_norm": norm}, losses.detach())

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Batches]:
        """The smallest honest run: a noisy sine, one layer of 16."""
        config = RegressorConfig(batch_size=32, loss="mae", l1=1e-4, l2=1e-4)
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            policy = Predictor(MLP(1, hidden=(16,)))
        x = torch.linspace(0.0, 3.0, 96)[:, None]
        y = 10.0 * (2.0 * x).sin() + torch.randn(96, 1, generator=torch.Generator().manual_seed(0))
        policy.fit_scale(y)
        return cls(policy, adam(1e-2), config), Batches(Dataset(x, y), config.batch_size, seed=seed)
