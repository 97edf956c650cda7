"""Simple models in closed form: likelihoods and reconstructions that a learned model must reach, or has to beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST = 4_096
"""Numbers in an example up to which the decomposition of a covariance is quick."""


def independent_bernoulli(train: Tensor, test: Tensor) -> Tensor:
    """log p(x) `(N,)` in nats of independent bits `(N, ...)`, each with its share of ones.

    A VAE whose codes say nothing reaches this. Shares are estimated with one more one and zero (Laplace), so
    that a pixel that was never set in training does not make an example impossible.
    """
    ones, x = train.flatten(1).double(), test.flatten(1).double()
    share = (ones.sum(0) + 1.0) / (len(ones) + 2.0)
    return (x * share.log() + (1.0 - x) * (-share).log1p()).sum(1)


def independent_levels(train: Tensor, test: Tensor, levels: int) -> Tensor:
    """log p(x) `(N,)` in nats of independent numbers `(N, ...)`, each with its shares of the levels k / (levels - 1).

    Each level counts one more time than it was seen, as in `independent_bernoulli`, which this is for two levels.
    """
    seen, x = ((part.flatten(1) * (levels - 1)).round().long() for part in (train, test))
    counts = torch.ones(levels, seen.shape[1], dtype=torch.float64)
    counts.scatter_add_(0, seen, torch.ones_like(seen, dtype=torch.float64))
    return (counts / counts.sum(0)).log().gather(0, x).sum(1)


def probabilistic_pca(train: Tensor, test: Tensor, k: int) -> Tensor:
    """log p(x) `(N,)` in nats under the best linear Gaussian model with k codes (Tipping & Bishop 1999).

        x ~ N(mean, W W' + s^2 I),   s^2 = mean of the d - k smallest eigenvalues of the covariance

    It is exact, and the optimum of a linear VAE (Lucas et al. 2019).

    Args:
        train: `(M, ...)`, to which the model is fitted.
        test: `(N, ...)`.
        k: fewer than the numbers in an example.
    """
    data, x = train.flatten(1).double(), test.flatten(1).double()
    d = data.shape[1]
    if not 0 <= k < d:
        raise ValueError(f"a linear model of {d} numbers has 0 to {d - 1} codes, not {k}")
    mean, values, vectors = _principal(data)
    noise = values[: d - k].mean()
    variances = torch.cat([noise.expand(d - k), values[d - k :]])
    coordinates = (x - mean) @ vectors
    density: Tensor = -0.5 * (coordinates.square() / variances + variances.log() + math.log(2 * math.pi)).sum(1)
    return density


def linear_reconstruction(train: Tensor, x: Tensor, deviation: float = 0.0, codes: int | None = None) -> Tensor:
    """The best linear reconstructions `(N, ...)` of examples `x` that have Gaussian noise of this deviation.

        mean + W (x - mean),   W = U U' C (C + deviation^2 I)^-1,   C the covariance, U its first eigenvectors

    Of all affine maps of rank `codes` this one has the least squared error on the distribution of `train` with noise.
    Without noise it is principal component analysis (Baldi & Hornik 1989); of full rank it is the Wiener filter, which
    for Gaussian data is E[example | x].

    Args:
        train: `(M, ...)` without noise, whose mean and covariance are used.
        x: `(N, ...)`, with noise.
        deviation: of the noise.
        codes: the rank; None for full rank.
    """
    mean, values, vectors = _principal(train.flatten(1).double())
    values = values.clamp_min(0.0)
    gains = values / (values + deviation**2) if deviation else torch.ones_like(values)
    if codes is not None:
        gains[: max(len(gains) - codes, 0)] = 0.0
    linear: Tensor = mean + (x.flatten(1).double() - mean) @ (vectors * gains) @ vectors.T
    return linear.to(x.dtype).view_as(x)


def _principal(data: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean `(d,)`, and eigenvalues `(d,)`, ascending, and eigenvectors `(d, d)` of the covariance of data `(N, d)`."""
    mean = data.mean(0)
    centered = data - mean
    return mean, *torch.linalg.eigh(centered.T @ centered / len(data))
