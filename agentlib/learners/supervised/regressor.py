"""Regression: linear and deep, by squared or absolute errors (Legendre 1805; Hoerl & Kennard 1970 for ridge).

    e = (f(x) - y) / scale
    L = 1/N sum_i e_i^2   or   1/N sum_i |e_i|,   + l1 sum |W| + l2 sum W^2

Squared errors are maximum likelihood under normal noise, absolute ones under Laplace noise. A linear model with l2 is
ridge regression, the most probable weights under a Gaussian prior: W = (X'X + N l2 I)^-1 X'y; with l1 it is the lasso
(Tibshirani 1996). Errors are measured in the model's own scale, the deviation of the training targets, so that learning
rates and penalties mean the same for targets in euros and in cents.

Several numbers are several tasks on one network (Caruana 1997), each with a row of the last layer of its own. With e_k
the loss of number k, they count alike, or `balance` weights them:

    "uncertainty"    L = 1/K sum_k exp(-s_k) e_k + s_k                       s is learned
    "surgery"        g_i <- g_i - min(g_i g_j, 0) / |g_j|^2 g_j  for all j,  L has the gradient 1/K sum_i g_i

The first (Kendall et al. 2018, arXiv:1705.07115) is least where exp(s_k) is e_k, so that a number that cannot be
predicted counts for little. The second (PCGrad, Yu et al. 2020, arXiv:2001.06782) takes from the gradient g_i of each
number, over all weights, the part that works against another's; j comes in a random order, one for all i.

The lecture notes call the norms ||f - y||_2 and ||f - y||_1 MSE and MAE: those are means, and the first has no root.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from agentlib.core import Learner, Optimizer, Recipe, Source, Step, Update
from agentlib.core.step import unrounded
from agentlib.data import Dataset, Examples, Splits
from agentlib.families.examples import ExampleFacts, on_examples
from agentlib.learners.supervised.regularization import Supervised, penalized, penalty
from agentlib.metrics.targets import numbers_for
from agentlib.policies import Predictor
from agentlib.policies.base import is_policy, require_no_memory

Loss = Literal["mse", "mae"]
Balance = Literal["equal", "uncertainty", "surgery"]


def error_of(prediction: Tensor, target: Tensor, loss: Loss = "mse") -> Tensor:
    """The mean over k numbers of squared ("mse") or absolute ("mae") errors, `(B,)`; both arguments `(B, k)`."""
    return errors_of(prediction, target, loss).mean(1)


def errors_of(prediction: Tensor, target: Tensor, loss: Loss = "mse") -> Tensor:
    """The error of each number, `(B, k)`."""
    error = prediction - numbers_for(prediction, target)
    return error.square() if loss == "mse" else error.abs()


def without_conflicts(gradients: Tensor, order: Tensor) -> Tensor:
    """Gradients `(K, P)`, each less its parts against the other ones, which come in an order `(K,)`; `(K, P)`."""
    found, own = gradients, torch.arange(len(gradients), device=gradients.device)
    for number, other in zip(order.unbind(), gradients[order].unbind(), strict=True):
        against = (found @ other).clamp(max=0.0) * (own != number)  # (K,)
        found = found - (against / other.square().sum().clamp(min=1e-12))[:, None] * other
    return found


@dataclass(frozen=True, kw_only=True)
class RegressorConfig(Supervised):
    """The numbers of a regressor's run."""

    loss: Loss = "mse"
    """Squared errors ("mse") or absolute errors ("mae")."""
    balance: Balance = "equal"
    """Weights of several numbers: "equal", by a learned "uncertainty", or gradients without conflicts ("surgery")."""


class Regressor(Learner):
    """Regression by least squares or least absolute errors.

    Raises:
        ValueError: the model has memory.
    """

    targets = "numbers"
    can_be_stacked = True

    def __init__(self, policy: Predictor, optimizer: Optimizer, config: RegressorConfig = RegressorConfig()) -> None:
        super().__init__()
        require_no_memory(policy, "a regressor")
        self.config, self.policy = config, policy
        is_learned = config.balance == "uncertainty"
        self.log_variances = nn.Parameter(torch.zeros(policy.outputs)) if is_learned else None  # s, (k,)
        learned = [] if self.log_variances is None else [self.log_variances]
        self.step = Step([policy, *learned], optimizer, config.max_grad_norm)
        self.matrices = penalized(policy)

    @property
    def is_mean_over_samples(self) -> bool:
        """Not with surgery: it looks at the gradients of the whole batch."""
        return self.config.balance != "surgery"

    @classmethod
    def build(cls, backbone: nn.Module, config: RegressorConfig, facts: ExampleFacts) -> Self:
        """A regressor on a backbone, or of a model that is one already, in the scale of the training targets."""
        policy: Any = backbone
        if not is_policy(backbone):
            policy = Predictor(backbone, facts.n_outputs)
            policy.observe(facts.train.x)
        policy.fit_scale(facts.train.targets)
        return cls(policy, config.optimizer(), config)

    def predict(self, x: Tensor) -> Tensor:
        """Numbers `(B, k)`."""
        prediction: Tensor = self.policy(x)[0]
        return prediction

    def losses(self, output: Tensor, target: Tensor) -> Tensor:
        """The error `(B,)` of each prediction in the model's scale."""
        return self.errors(output, target).mean(1)

    def errors(self, output: Tensor, target: Tensor) -> Tensor:
        """The error of each number in the model's scale, `(B, k)`."""
        scale = self.policy.scale
        return errors_of(output / scale, numbers_for(output, target) / scale, self.config.loss)

    def balanced(self, errors: Tensor) -> Tensor:
        """The loss of errors `(B, k)`, 0-dim; with surgery one that has the right gradient, and no meaning besides."""
        if self.log_variances is not None:
            return (errors * (-self.log_variances).exp() + self.log_variances).mean()
        if self.config.balance == "equal":
            return errors.mean(1).mean()
        weights = self.step.parameter_list
        with unrounded(errors):
            slopes = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in errors.mean(0).unbind()]
            gradients = torch.stack([torch.cat([part.flatten() for part in each]) for each in slopes])  # (k, P)
            order = torch.randperm(len(gradients), device=gradients.device)
            gradient = without_conflicts(gradients, order).mean(0)
            return torch.cat([weight.flatten() for weight in weights]) @ gradient

    def update(self, batch: Examples) -> Update:
        """One step on the loss of a batch; `per_sample` holds the losses `(B,)`."""
        assert batch.y is not None
        prediction, _ = self.policy(batch.x)  # (B, k)
        errors = self.errors(prediction, batch.y)
        held = penalty(self.matrices, self.config.l1, self.config.l2)
        norm = self.step(self.balanced(errors) + held, batch.clock)
        losses = errors.detach().mean(1)
        return Update({"loss": (losses.mean() + held).detach(), "grad_norm": norm}, losses)

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Self, Source]:
        """The smallest honest run: a noisy sine, one layer of 16."""
        x = torch.linspace(0.0, 3.0, 96)[:, None]
        y = 10.0 * (2.0 * x).sin() + torch.randn(96, 1, generator=torch.Generator().manual_seed(0))
        loss: Any = {"loss": "mae", "l1": 1e-4, "l2": 1e-4}
        config = RegressorConfig(learning_rate=1e-2, batch_size=32, net_arch=(16,), normalize=False, **loss)
        return RECIPE.tiny(cls, config, seed, data=Splits(*[Dataset(x, y)] * 3))


RECIPE = Recipe(
    "regressor",
    Regressor,
    RegressorConfig,
    on_examples,
    "regression of numbers by squared or absolute errors",
    steps=2_000,
    presets={"diabetes": {"net_arch": (), "l2": 4e-3, "learning_rate": 3e-3, "steps": 1_000}},
)
