"""How far results on examples carry: gaps and bounds, under- and overfitting, and bias and variance.

    risk R(f) = E[l(f(x), y)],   empirical risk R_N(f) = 1/N sum_i l(f(x_i), y_i),   gap = R_test - R_train

For losses between 0 and 1, with probability 1 - delta:

    |R_test - R| <= sqrt(log(2 / delta) / (2 N_test))                                  (Hoeffding 1963), f fixed before
    R - R_train <= sqrt((b log 2 + log(1 / delta)) / (2 N_train))                       for all f of b bits at once

The second is the union bound over all networks of p numbers of 32 bits, b = 32 p (Occam's razor; Shalev-Shwartz & Ben-
David 2014, section 7.3). It says something of small models; for deep networks it is above 1, so that their small gaps
are a fact which counting parameters does not explain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentlib.core.names import readable
from agentlib.metrics.intervals import Interval

Floats = NDArray[np.float64]

RESAMPLES = 2_000
"""Of the bootstrap interval of a gap."""


def hoeffding(examples: int, delta: float = 0.05) -> float:
    """How far a mean of N independent losses in [0, 1] may be from its expectation, with probability 1 - delta."""
    return math.sqrt(math.log(2.0 / delta) / (2.0 * examples))


def occam(bits: float, examples: int, delta: float = 0.05) -> float:
    """How far the risk may lie above the training risk, for all models of this number of bits and losses in [0, 1]."""
    return math.sqrt((bits * math.log(2.0) + math.log(1.0 / delta)) / (2.0 * examples))


class Generalization(NamedTuple):
    """The gap between training and test risk, beside bounds on it."""

    train: float
    test: float
    test_bound: float
    """Hoeffding's: the risk is within this of `test`."""
    gap_bound: float
    """The union bound over all networks of this size, in 32-bit numbers; above 1 it says nothing."""

    @property
    def gap(self) -> float:
        """Test risk minus training risk."""
        return self.test - self.train

    def __str__(self) -> str:
        says = "" if self.gap_bound < 1.0 else ", which says nothing"
        return (
            f"error {readable(self.train)} in training, {readable(self.test)} +/- {readable(self.test_bound)} in tests "
            f"(Hoeffding, 95%); gap {readable(self.gap)}, at most {readable(self.gap_bound)} by counting bits{says}"
        )


def generalization(train_losses: ArrayLike, test_losses: ArrayLike, parameters: int) -> Generalization:
    """The gap of a model with this number of trained parameters, from its losses on examples, each between 0 and 1.

    Raises:
        ValueError: losses that lie outside, for which the bounds do not hold.
    """
    train, test = _losses(train_losses), _losses(test_losses)
    if min(train.min(), test.min()) < 0.0 or max(train.max(), test.max()) > 1.0:
        raise ValueError("these bounds are for losses between 0 and 1, such as errors (0 or 1) of a classifier")
    bounds = hoeffding(test.size), occam(32.0 * parameters, train.size)
    return Generalization(float(train.mean()), float(test.mean()), *bounds)


class Fit(NamedTuple):
    """Whether a model learned too little of its training data, or too much."""

    train: float
    """Mean loss on the training examples."""
    validation: float
    """Mean loss on examples that it did not learn from."""
    baseline: float
    """Mean loss of the best constant prediction."""
    gap: Interval
    """95% bootstrap interval of validation minus train."""
    verdict: str
    """"underfits", "overfits" or "fits"."""

    @property
    def learned(self) -> float:
        """Share of the baseline's loss that is gone in training: 0 is nothing learned, 1 all."""
        return 1.0 - self.train / self.baseline

    def __str__(self) -> str:
        return (
            f"{self.verdict}: loss {readable(self.train)} in training, {readable(self.validation)} in validation (gap "
            f"{self.gap}); always the same answer {readable(self.baseline)}"
        )


def fit_report(
    train_losses: ArrayLike, validation_losses: ArrayLike, baseline: float, enough: float = 0.5, most: float = 0.1
) -> Fit:
    """Judges losses `(N,)` on training and `(M,)` on validation examples.

    A model underfits if it removed less than the share `enough` of the baseline's loss in training, and overfits if the
    loss on validation examples is higher by more than the share `most` of the baseline, its interval being above 0.

    Args:
        train_losses: of the examples it learned from.
        validation_losses: of others.
        baseline: mean loss of the best constant prediction, such as the entropy of the labels or the targets' variance.
        enough: see above.
        most: see above.

    Raises:
        ValueError: no losses, or a baseline that is not above 0.
    """
    train, validation = _losses(train_losses), _losses(validation_losses)
    if not baseline > 0.0:
        raise ValueError(f"a baseline's loss is above 0, not {baseline}: constant targets need no model")
    generator = np.random.default_rng(0)
    # One resample at a time: of 60,000 losses, all of them together would take a gigabyte.
    means = [
        np.array([values[generator.integers(values.size, size=values.size)].mean() for _ in range(RESAMPLES)])
        for values in (train, validation)
    ]
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    difference = float(validation.mean() - train.mean())
    verdict = "fits"
    if 1.0 - train.mean() / baseline < enough:
        verdict = "underfits"
    elif low > 0.0 and difference > most * baseline:
        verdict = "overfits"
    return Fit(float(train.mean()), float(validation.mean()), baseline, Interval(float(low), float(high)), verdict)


class BiasVariance(NamedTuple):
    """E[(y - f(x))^2] = noise + bias^2 + variance, each averaged over x."""

    error: float
    """Mean squared error."""
    bias2: float
    """Squared difference of the average prediction and the truth."""
    variance: float
    """Of the predictions, over training sets."""
    noise: float
    """Variance of the targets."""

    def __str__(self) -> str:
        names = ("bias^2", "variance", "noise")
        terms = " + ".join(f"{value:.4f} ({name})" for value, name in zip(self[1:], names, strict=True))
        return f"{self.error:.4f} (error) = {terms}"


def bias_variance(predictions: ArrayLike, truth: ArrayLike, targets: ArrayLike) -> BiasVariance:
    """Splits the error of a learner, from its models on several training sets (Geman et al. 1992).

    Args:
        predictions: of models learned on R training sets, `(R, N)`; each set is another sample of the data.
        truth: what the targets are without noise, `(N,)`.
        targets: M noisy draws of them, `(M, N)`, independent of the training sets.

    Raises:
        ValueError: fewer than two training sets, or shapes that do not fit.
    """
    f, clean, noisy = (np.asarray(values, np.float64) for values in (predictions, truth, targets))
    if f.ndim != 2 or noisy.ndim != 2 or len(f) < 2 or not f.shape[1:] == clean.shape == noisy.shape[1:]:
        raise ValueError(
            "predictions (R, N) of R >= 2 training sets, the truth (N,) and targets (M, N) are needed, not "
            f"{f.shape}, {clean.shape} and {noisy.shape}"
        )
    # The mean over all pairs of a target and a prediction, without making them.
    errors = (noisy**2).mean(0) - 2.0 * noisy.mean(0) * f.mean(0) + (f**2).mean(0)
    parts = (errors, (clean - f.mean(0)) ** 2, f.var(0), noisy.var(0))
    return BiasVariance(*(float(part.mean()) for part in parts))


def decompose(
    fit: Callable[[Any, int], Callable[[Any], ArrayLike]],
    draw: Callable[[int], Any],
    x: Any,
    truth: ArrayLike,
    targets: ArrayLike,
    repeats: int = 50,
) -> BiasVariance:
    """Bias and variance of any learner.

    Args:
        fit: learns from what `draw` gave, with a seed, and returns a function from inputs to predictions `(N,)`.
        draw: makes the training set of a seed.
        x: inputs to predict.
        truth: at these inputs, without noise, `(N,)`.
        targets: noisy draws, `(M, N)`.
        repeats: number of training sets; each has a seed of its own, which its learner gets, too.
    """
    predictions = [np.asarray(fit(draw(seed), seed)(x), np.float64) for seed in range(repeats)]
    return bias_variance(predictions, truth, targets)


def _losses(values: ArrayLike) -> Floats:
    losses = np.asarray(values, np.float64).ravel()
    if not losses.size:
        raise ValueError("there are no losses to judge")
    return losses
