"""Whether features have collapsed: how far they spread over directions, and how near the views of one image are.

    spread = sqrt(d) mean_j std_i(u_ij),     rank = exp(-sum_k p_k log p_k),   p_k = s_k / sum s       (u = f / |f|)
    alignment = E |u - u'|^2 over views of one image,      uniformity = log E exp(-2 |u - v|^2) over pairs of images

s are the singular values of the features less their mean. Alignment and uniformity are Wang and Isola's (2020,
arXiv:2005.10242), the rank is Roy and Vetterli's (2007; Garrido et al. 2023, arXiv:2210.02885). Features that are the
same for all images have a spread of 0 and a uniformity of 0; directions that fill the sphere have a spread of 1, an
alignment of 2 between views that have nothing in common, and for large d a uniformity of about -4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def spread(features: Tensor) -> Tensor:
    """The deviation of directions, 0-dim, of features `(..., N, d)`: 1 where they fill the sphere, 0 for a collapse.

    Of a direction in d dimensions each coordinate varies by 1 / sqrt(d).
    """
    return functional.normalize(features, dim=-1).std(-2).mean() * math.sqrt(features.shape[-1])


def effective_rank(features: Tensor) -> Tensor:
    """The number of directions that features `(N, d)` use, 0-dim, from 1; 0 where all are equal."""
    values = torch.linalg.svdvals(features - features.mean(0))  # (min(N, d),)
    share = values / values.sum()
    return torch.where(values.sum() > 1e-5 * features.norm(), torch.special.entr(share).sum().exp(), 0.0)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """The mean squared distance, 0-dim in [0, 4], between the directions of two views `(N, d)` of the same images."""
    return (functional.normalize(first, dim=-1) - functional.normalize(second, dim=-1)).square().sum(-1).mean()


def uniformity(features: Tensor) -> Tensor:
    """The logarithm, 0-dim, of the mean of exp(-2 |u - v|^2) over pairs of different rows of features `(N, d)`."""
    distances = functional.pdist(functional.normalize(features, dim=-1))  # (N (N - 1) / 2,)
    return (-2.0 * distances.square()).exp().mean().log()
