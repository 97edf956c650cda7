"""Ratios of densities, target over source, by which source examples weigh as much as they would in the target.

    E_target[ L(x) ] = E_source[ r(x) L(x) ],   r = p_target / p_source,   where p_source > 0 wherever p_target is

The effective number of examples, (sum w)^2 / sum w^2, says how many of them are left.
"""

from __future__ import annotations

import torch
from torch import Tensor


def logistic_ratio(source: Tensor, target: Tensor, at: Tensor, l2: float = 1e-3, steps: int = 25) -> Tensor:
    """By logistic regression of target against source (Bickel et al. 2009): p / (1 - p) n_source / n_target, `(N,)`.

    Args:
        source: `(n, d)`.
        target: `(m, d)`.
        at: the points of the ratio, `(N, d)`.
        l2: penalty on the weights, of standardized numbers.
        steps: of Newton's method.
    """
    both = torch.cat([source, target]).double()
    mean, deviation = both.mean(0), both.std(0).clamp_min(1e-9)

    def rows(x: Tensor) -> Tensor:
        return torch.cat([(x.double() - mean) / deviation, torch.ones(len(x), 1, dtype=torch.float64)], 1)

    x, y = rows(both), torch.cat([torch.zeros(len(source)), torch.ones(len(target))]).double()
    penalty = torch.full((x.shape[1],), l2, dtype=torch.float64)
    penalty[-1] = 1e-9
    weights = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(steps):
        p = torch.sigmoid(x @ weights)
        gradient = x.T @ (p - y) / len(x) + penalty * weights
        hessian = (x.T * (p * (1.0 - p)).clamp_min(1e-6)) @ x / len(x) + penalty.diag()
        weights = weights - torch.linalg.solve(hessian, gradient)
    ratio: Tensor = (rows(at) @ weights).exp() * (len(source) / len(target))
    return ratio.float()


def ulsif_ratio(source: Tensor, target: Tensor, at: Tensor, l2: float = 0.01, centers: int = 100) -> Tensor:
    """By unconstrained least squares (uLSIF; Kanamori et al. 2009): sum_k a_k exp(-|x - c_k|^2 / 2 s^2), `(N,)`.

    The centres are the first points of the target, s is the median distance, a = (H + l2 I)^-1 h in closed form.
    """
    chosen = target[:centers].double()
    width = torch.cdist(target[:500].double(), chosen).median().clamp_min(1e-9)

    def features(x: Tensor) -> Tensor:
        return (-0.5 * (torch.cdist(x.double(), chosen) / width).square()).exp()

    seen = features(source)
    share = torch.eye(len(chosen), dtype=torch.float64)
    weights = torch.linalg.solve(seen.T @ seen / len(seen) + l2 * share, features(target).mean(0))
    ratio: Tensor = features(at) @ weights
    return ratio.clamp_min(0.0).float()


def gaussian_ratio(source: Tensor, target: Tensor, at: Tensor) -> Tensor:
    """Of the two Gaussians that are fitted to source `(n, d)` and target `(m, d)`, at points `(N, d)`."""
    logs = []
    for x in (source.double(), target.double()):
        covariance = torch.atleast_2d(x.T.cov()) + 1e-6 * torch.eye(x.shape[1], dtype=torch.float64)
        fitted = torch.distributions.MultivariateNormal(x.mean(0), covariance)
        logs.append(fitted.log_prob(at.double()))
    ratio: Tensor = (logs[1] - logs[0]).exp()
    return ratio.float()


RATIOS = {"logistic": logistic_ratio, "ulsif": ulsif_ratio, "gaussian": gaussian_ratio}


def importance_weights(source: Tensor, target: Tensor, kind: str = "logistic") -> Tensor:
    """The ratio at the points of the source `(n, d)`, by one of `RATIOS`, divided by its mean, `(n,)`.

    Raises:
        ValueError: the target is so far off that all ratios are 0, or some are infinite.
    """
    ratio = RATIOS[kind](source, target, source)
    if not 0.0 < float(ratio.mean()) < torch.inf:  # nor NaN
        raise ValueError(f"the target is too far off for weights of the sources by {kind}: take another ratio")
    return ratio / ratio.mean()


def effective_number(weights: Tensor) -> float:
    """(sum w)^2 / sum w^2 of weights `(N,)`: N if all are alike, 1 if one has all."""
    return float(weights.double().sum().square() / weights.double().square().sum())
