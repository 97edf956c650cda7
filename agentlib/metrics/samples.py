"""Quality of samples: modes covered, two-sample tests, distances, and the verdict of a classifier.

No single number is enough. A model with few modes of high quality looks good by its share of good samples, and one that
is too narrow looks better than the truth: of real Gaussian points in the plane exp(-4.5) = 1.1% lie beyond three
deviations, so a share above 98.9% within is a fault too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from agentlib.metrics.targets import labels_for


@dataclass(frozen=True)
class Modes:
    """Samples beside the centers of the true distribution."""

    shares: tuple[float, ...]
    """The share of all samples that lie within three deviations of each center."""
    within: float
    """The share that lies within three deviations of some center; of real points in the plane, 0.989."""
    spread: float
    """Root mean square distance from the nearest center in each direction, in deviations, over all samples; ideal 1."""

    @property
    def smallest(self) -> float:
        """The share of the rarest mode."""
        return min(self.shares)

    def covered(self, least: float = 0.01) -> int:
        """Modes that have at least this share of the samples."""
        return sum(share >= least for share in self.shares)


def modes(samples: Tensor, centers: Tensor, deviation: float) -> Modes:
    """The modes of a mixture of round Gaussians that samples cover, and how well.

    Args:
        samples: `(N, d)`.
        centers: `(K, d)`.
        deviation: of each Gaussian.
    """
    distance, nearest = torch.cdist(samples.double(), centers.double()).min(1)  # (N,)
    good = distance <= 3 * deviation
    counts = torch.bincount(nearest[good], minlength=len(centers))
    spread = (distance.square().mean() / samples.shape[1]).sqrt() / deviation
    shares = tuple((counts / len(samples)).tolist())
    return Modes(shares, float(good.double().mean()), float(spread))


def nearest_neighbor_accuracy(real: Tensor, fake: Tensor) -> float:
    """The share of examples whose nearest other example is of their own kind: the 1-NN two-sample test.

    0.5 where the two are indistinguishable, 1 where they differ clearly, near 0 where the fakes are copies of the reals
    (Lopez-Paz & Oquab 2017).

    Args:
        real: `(N, ...)`.
        fake: `(N, ...)`, as many.

    Raises:
        ValueError: not as many, which would move the 0.5.
    """
    if len(real) != len(fake):
        raise ValueError(f"the test needs as many real examples as samples, not {len(real)} and {len(fake)}")
    x = torch.cat([real, fake]).flatten(1).double()  # (2N, d)
    distance = torch.cdist(x, x).fill_diagonal_(math.inf)
    is_real = torch.arange(len(x), device=x.device) < len(real)
    return float((is_real[distance.argmin(1)] == is_real).double().mean())


def squared_mmd(real: Tensor, fake: Tensor, bandwidth: float | None = None) -> float:
    """The squared maximum mean discrepancy under exp(-d^2 / (2 bandwidth^2)), without bias (Gretton et al. 2012).

    Around 0, and as often below it as above, where both are from one distribution.

    Args:
        real: `(N, ...)`.
        fake: `(M, ...)`.
        bandwidth: by default the median distance between real examples.
    """
    x, y = real.flatten(1).double(), fake.flatten(1).double()
    n, m = len(x), len(y)
    if bandwidth is None:
        bandwidth = float(torch.nn.functional.pdist(x).median())

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-torch.cdist(a, b).square() / (2 * bandwidth**2)).exp()

    within = (kernel(x, x).sum() - n) / (n * (n - 1)) + (kernel(y, y).sum() - m) / (m * (m - 1))
    return float(within - 2 * kernel(x, y).mean())


def wasserstein(real: Tensor, fake: Tensor) -> float:
    """W1 between two sets of as many examples `(N, ...)`: the least mean distance of any one-to-one assignment, exact.

    Even two sets from one distribution are some way apart: compare with the distance of two real sets.

    Raises:
        ImportError: scipy is absent; the message names the extra.
        ValueError: not as many of both.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise ImportError("the exact Wasserstein distance needs scipy: pip install 'agentlib-rl[plots]'") from None
    if len(real) != len(fake):
        raise ValueError(f"an assignment needs as many real examples as samples, not {len(real)} and {len(fake)}")
    cost = torch.cdist(real.flatten(1).double(), fake.flatten(1).double()).cpu().numpy()
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """The squared distance of two Gaussians that have the means and covariances of features `(N, d)` and `(M, d)`.

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))      (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500)

    Heusel et al. take features of Inception; with those of another network the numbers are others. With few examples
    beside d it is too large, also between two sets of real ones: compare with that.

    Raises:
        ValueError: features of other shapes, or fewer than two examples.
    """
    if real.dim() != 2 or fake.dim() != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(f"features are (N, d) and (M, d), N and M at least 2, not {tuple(real.shape)} and "
                         f"{tuple(fake.shape)}")  # fmt: skip
    a, b = real.double(), fake.double()
    first, second = (torch.atleast_2d(x.T.cov()) for x in (a, b))
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp_min(0.0).sqrt()) @ vectors.T
    # The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2).
    both = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0.0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + first.trace() + second.trace() - 2.0 * both)


def agreement(classify: Callable[[Tensor], Tensor], samples: Tensor, label: Tensor | NDArray[Any]) -> float:
    """The share of samples `(N, ...)` that a classifier gives the label `(N,)` that was asked for.

    Args:
        classify: examples to labels; it must have learned from other data than the model.
        samples: of the model.
        label: the labels asked for.
    """
    found = labels_for(samples.shape[:1], classify(samples), name="the labels of classify").cpu()
    wanted = labels_for(samples.shape[:1], label, name="label").cpu()
    return float((found == wanted).double().mean())


def pixel_deviation(samples: Tensor, label: Tensor | NDArray[Any]) -> float:
    """The mean deviation of samples `(N, ...)` of one label `(N,)`, over all numbers and labels.

    Beside that of real examples it measures variety: a model with one picture for each label has 0.
    """
    flat, label = samples.flatten(1), labels_for(samples.shape[:1], label, name="label").to(samples.device)
    return float(torch.stack([flat[label == one].std(0, correction=0).mean() for one in label.unique()]).mean())
