"""Scaling laws: the loss of a model of N parameters that has read D tokens, by runs of several sizes and lengths.

    Chinchilla    L = E + A / N^alpha + B / D^beta                  (Hoffmann et al. 2022, arXiv:2203.15556, equation 2)
    Kaplan        L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D    (Kaplan et al. 2020, arXiv:2001.08361, 1.5)

Both are fitted as Hoffmann et al. do: the sum of Huber's losses of log L, of width 10^-3, is least, found here by
Levenberg and Marquardt's steps from many starts. Intervals are those of a bootstrap of the runs, each fitted from the
best of all runs. A and B are hardly known by a few runs, even where the exponents are. Compute is 6 N D, as Kaplan et
al. count it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agentlib.metrics.intervals import Estimate, Interval

Floats = NDArray[np.float64]
Law = Callable[[Floats, Floats, Floats], Floats]
"""(numbers `(S, k)`, log N `(n,)`, log D `(n,)`) -> log L `(S, n)`."""
HUBER, STEPS, SLOPE = 1e-3, 300, 1e-5
"""Width of Huber's loss, steps of a fit, and the distance of the points of a numerical derivative."""


def _chinchilla(numbers: Floats, n: Floats, d: Floats) -> Floats:
    a, b, e, alpha, beta = (numbers[:, i, None] for i in range(5))
    return np.logaddexp(np.logaddexp(a - alpha * n, b - beta * d), e)


def _kaplan(numbers: Floats, n: Floats, d: Floats) -> Floats:
    n_c, d_c, alpha_n, alpha_d = (numbers[:, i, None] for i in range(4))
    return alpha_d * np.logaddexp(alpha_n / alpha_d * (n_c - n), d_c - d)


@dataclass(frozen=True, eq=False)
class ScalingLaw:
    """A fitted law."""

    names: tuple[str, ...]
    logarithms: int
    """How many of the numbers, the first ones, are logarithms of what is named."""
    law: Law
    numbers: Floats
    """`(k,)`."""
    resampled: Floats
    """`(R, k)`: those of the resampled runs."""

    def estimate(self, name: str) -> Estimate:
        """A number of the law by its name, with its 95% interval."""
        place = self.names.index(name)
        found = np.append(self.numbers[place], np.quantile(self.resampled[:, place], [0.025, 0.975]))
        with np.errstate(over="ignore"):  # N_c of a law that hardly depends on N
            value, low, high = np.exp(found) if place < self.logarithms else found
        return Estimate(float(value), Interval(float(low), float(high)))

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Floats:
        """The losses `(n,)` of models of these sizes that have read that many tokens."""
        n, d = (np.log(np.atleast_1d(np.asarray(side, np.float64))) for side in (parameters, tokens))
        losses: Floats = np.exp(self.law(self.numbers[None], n, d)[0])
        return losses

    def best(self, compute: float) -> tuple[float, float]:
        """N and D with the least loss of all with 6 N D = compute, to a ten-thousandth.

        Raises:
            ValueError: there is not enough of it for a token and a parameter.
        """
        if not 6.0 < compute < np.inf:
            raise ValueError(f"compute is 6 N D operations, more than 6, not {compute}")
        n = np.linspace(0.0, np.log(compute / 6.0), 200_001)
        place = int(self.law(self.numbers[None], n, np.log(compute / 6.0) - n)[0].argmin())
        return float(np.exp(n[place])), float(compute / 6.0 / np.exp(n[place]))


def chinchilla(
    parameters: ArrayLike, tokens: ArrayLike, losses: ArrayLike, *, resamples: int = 200, seed: int = 0
) -> ScalingLaw:
    """The law of Hoffmann et al. of runs, with the numbers A, B, E, alpha and beta.

    Args:
        parameters: N of each run, `(n,)`; usually without embeddings.
        tokens: D, `(n,)`.
        losses: L, `(n,)`, of runs whose learning rate has come to its end.
        resamples: fits for the intervals.
        seed: of the resampling.

    Raises:
        ValueError: fewer than six runs, numbers that are not positive, or only one size, or one length.
    """
    n, d, y = _logarithms(parameters, tokens, losses)
    spread = np.log(max(float(np.ptp(np.exp(y))), 1e-3))
    starts = [
        (spread + alpha * n.mean(), spread + beta * d.mean(), y.min() + e, alpha, beta)
        for alpha, beta, e in product((0.1, 0.3, 0.6, 1.0), (0.1, 0.3, 0.6, 1.0), (-1.0, -0.1, -0.01))
    ]
    return _fit(("A", "B", "E", "alpha", "beta"), 3, _chinchilla, np.array(starts), (n, d, y), resamples, seed)


def kaplan(
    parameters: ArrayLike, tokens: ArrayLike, losses: ArrayLike, *, resamples: int = 200, seed: int = 0
) -> ScalingLaw:
    """The law of Kaplan et al. of runs, with the numbers N_c, D_c, alpha_N and alpha_D; the rest as `chinchilla`."""
    n, d, y = _logarithms(parameters, tokens, losses)
    starts = [
        (n.mean() + y.mean() / alpha_n, d.mean() + y.mean() / alpha_d, alpha_n, alpha_d)
        for alpha_n, alpha_d in product((0.03, 0.08, 0.2, 0.5), repeat=2)
    ]
    return _fit(("N_c", "D_c", "alpha_N", "alpha_D"), 2, _kaplan, np.array(starts), (n, d, y), resamples, seed)


def _logarithms(*columns: ArrayLike) -> list[Floats]:
    arrays = [np.asarray(column, np.float64).ravel() for column in columns]
    if len({len(array) for array in arrays}) > 1 or len(arrays[0]) < 6:
        raise ValueError(f"a law needs six runs at least, each with N, D and L, not {[len(one) for one in arrays]}")
    if any(not (np.isfinite(array).all() and (array > 0).all()) for array in arrays):
        raise ValueError("parameters, tokens and losses are positive numbers")
    if min(len(np.unique(array)) for array in arrays[:2]) < 2:
        raise ValueError("all runs have one size, or one length: a law needs several of both")
    return [np.log(array) for array in arrays]


def _fit(
    names: tuple[str, ...], logarithms: int, law: Law, starts: Floats, runs: Any, resamples: int, seed: int
) -> ScalingLaw:
    found, costs = _least(law, starts, runs, np.ones((len(starts), len(runs[0]))))
    best = found[costs.argmin()]
    counts = np.random.default_rng(seed).multinomial(len(runs[0]), np.full(len(runs[0]), 1.0 / len(runs[0])), resamples)
    resampled, _ = _least(law, np.repeat(best[None], resamples, 0), runs, counts.astype(np.float64))
    return ScalingLaw(names, logarithms, law, best, resampled)


def _least(law: Law, starts: Floats, runs: Any, weights: Floats) -> tuple[Floats, Floats]:
    """The numbers `(S, k)` with the least sum of Huber's losses from each start, and these sums `(S,)`.

    Huber's loss is a square of the error whose weight falls as the error grows, so that each step is one of least
    squares, damped where it would lead uphill (Marquardt 1963).
    """
    n, d, y = runs
    numbers, damping = starts.copy(), np.full((len(starts), 1, 1), 1e-2)
    shifts = SLOPE * np.eye(starts.shape[1])

    def cost_of(candidate: Floats) -> Floats:
        size = np.abs(y - law(candidate, n, d))
        losses = np.where(size <= HUBER, 0.5 * size**2, HUBER * (size - 0.5 * HUBER))
        return np.nan_to_num((weights * losses).sum(1), nan=np.inf)  # type: ignore[no-any-return]

    with np.errstate(all="ignore"):
        cost = cost_of(numbers)
        for _ in range(STEPS):
            error = y - law(numbers, n, d)  # (S, n)
            slopes = [(law(numbers + shift, n, d) - law(numbers - shift, n, d)) / (2.0 * SLOPE) for shift in shifts]
            jacobian = np.nan_to_num(np.stack(slopes, 2)).clip(-1e6, 1e6)  # (S, n, k)
            share = weights * np.minimum(1.0, HUBER / np.maximum(np.abs(error), 1e-300))
            weighted = (jacobian * share[..., None]).swapaxes(1, 2)  # (S, k, n)
            square = weighted @ jacobian
            diagonal = np.eye(square.shape[1]) * (square.diagonal(axis1=1, axis2=2)[:, None] + 1e-12)
            change = np.linalg.solve(square + damping * diagonal, weighted @ np.nan_to_num(error)[..., None])[..., 0]
            candidate = numbers + change
            new = cost_of(candidate)
            better = new < cost
            numbers, cost = np.where(better[:, None], candidate, numbers), np.where(better, new, cost)
            damping = np.clip(damping * np.where(better, 1.0 / 3.0, 4.0)[:, None, None], 1e-10, 1e10)
    return numbers, cost
