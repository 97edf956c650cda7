"""Exact likelihoods of simple models: what a density model must reach, or has to beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def independent_bernoulli(train: Tensor, test: Tensor) -> Tensor:
    """log p(x) `(N,)` in nats of bits `(N, ...)` that know nothing of each other, each with its share of ones.

    What a VAE is left with when its codes say nothing. Shares are estimated with one more one and zero (Laplace), so
    that a pixel that was never set in training does not make an example impossible.
    """
    ones, x = train.flatten(1).double(), test.flatten(1).double()
    share = (ones.sum(0) + 1.0) / (len(ones) + 2.0)
    return (x * share.log() + (1.0 - x) * (-share).log1p()).sum(1)


def probabilistic_pca(train: Tensor, test: Tensor, k: int) -> Tensor:
    """log p(x) `(N,)` in nats under the best linear Gaussian model with k codes (Tipping & Bishop 1999).

        x ~ N(mean, W W' + s^2 I),   s^2 = mean of the d - k smallest eigenvalues of the covariance

    It is exact, and what a linear VAE reaches at its optimum (Lucas et al. 2019).

    Args:
        train: `(M, ...)`, which the model is fit to.
        test: `(N, ...)`.
        k: fewer than the numbers in an example.
    """
    data, x = train.flatten(1).double(), test.flatten(1).double()
    d = data.shape[1]
    if not 0 <= k < d:
        raise ValueError(f"a linear model of {d} numbers has 0 to {d - 1} codes, not {k}")
    mean = data.mean(0)
    values, vectors = torch.linalg.eigh((data - mean).T @ (data - mean) / len(data))  # ascending
    noise = values[: d - k].mean()
    variances = torch.cat([noise.expand(d - k), values[d - k :]])
    coordinates = (x - mean) @ vectors
    density: Tensor = -0.5 * (coordinates.square() / variances + variances.log() + math.log(2 * math.pi)).sum(1)
    return density
