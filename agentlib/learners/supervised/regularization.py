"""Penalties on weights, and the priors that they stand for.

    argmax p(w | data) = argmin 1/N sum_i -log p(y_i | x_i, w) - 1/N log p(w) = argmin loss + l1 sum |w| + l2 sum w^2

A Gaussian prior N(0, s^2) on each weight is l2 = 1 / (2 s^2 N), a Laplace prior of scale b is l1 = 1 / (b N). Where the
loss is a sum over examples, as in ridge regression and in scikit-learn, lambda is N times as large: ridge's alpha is
N l2, and C of scikit-learn's logistic regression is 1 / (2 N l2).

The lecture notes say that a smaller lambda makes the solution smoother; a larger one does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from agentlib.backbones import Optimized
from agentlib.core.config import Count, NonNegative
from agentlib.core.step import parameters_of


def penalty(weights: Iterable[Tensor], l1: float = 0.0, l2: float = 0.0) -> Tensor | float:
    """l1 sum |w| + l2 sum w^2, 0-dim."""
    total: Tensor | float = 0.0
    for weight in weights:
        if l1:
            total = total + l1 * weight.abs().sum()
        if l2:
            total = total + l2 * weight.square().sum()
    return total


def penalized(modules: nn.Module) -> list[nn.Parameter]:
    """The parameters with penalties: trainable matrices and filters, not biases and gains."""
    return [parameter for parameter in parameters_of(modules) if parameter.dim() > 1]


def gaussian_prior(std: float, examples: int) -> float:
    """The l2 with which minimizing the mean loss finds the most probable weights under N(0, std^2), given N examples.

    The loss is a negative log likelihood; a squared error is one, times 1 / (2 noise variance).
    """
    return 1.0 / (2.0 * std**2 * examples)


def laplace_prior(scale: float, examples: int) -> float:
    """The l1 of a Laplace prior, exp(-|w| / scale) / (2 scale), given N examples."""
    return 1.0 / (scale * examples)


@dataclass(frozen=True, kw_only=True)
class Supervised(Optimized):
    """The common fields of the configs of learners from labelled examples."""

    batch_size: Count = 64
    """Examples per update; with the size of the training part, every update sees all of them."""
    net_arch: tuple[int, ...] | None = None
    """Widths of the hidden layers; an empty list makes the model linear. The default depends on the kind of input."""
    l1: NonNegative = 0.0
    """Strength of the penalty l1 sum |W|, which is added to the mean loss."""
    l2: NonNegative = 0.0
    """Strength of the penalty l2 sum W^2, which is added to the mean loss; see `gaussian_prior`."""
    normalize: bool = True
    """Standardize vectors by mean and deviation of the training part; pictures stay between 0 and 1."""
    patience: Count | None = 10
    """Evaluations on the validation part (50 per run) without a smaller loss before the run stops; None never stops."""
