"""Balls of the norms l-infinity, l2 and l1: projections, steepest directions, and random points.

    P(d) = argmin ||d' - d||_2  over  ||d'||_p <= epsilon,        s(g) = argmax g.s  over  ||s||_p <= 1

s(g) is sign(g) for l-infinity and g / ||g|| for l2. For l1 it is the largest number of g alone, which would take many
steps in a large image: there it is the largest hundredth of |g|, alike in size (Tramèr & Boneh 2019, arXiv:1904.13000).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Norm = Literal["linf", "l2", "l1"]
Bounds = tuple[float | Tensor, float | Tensor]
"""Smallest and largest value of the data: numbers, or tensors of the shape of one example."""


def project(delta: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """The nearest perturbations `(B, n)` in the ball of radius epsilon."""
    if norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    if norm == "l2":
        length: Tensor = torch.linalg.vector_norm(delta, dim=1, keepdim=True)
        return delta * (epsilon / length.clamp_min(epsilon))
    return project_l1(delta, epsilon)


def project_l1(delta: Tensor, epsilon: float) -> Tensor:
    """The nearest perturbations `(B, n)` with sum |d_i| <= epsilon (Duchi et al. 2008, figure 1).

    Every number moves towards 0 by one theta per row, chosen so that the rest sums up to epsilon.
    """
    size = delta.abs()
    largest = size.sort(dim=1, descending=True).values
    count = torch.arange(1, delta.shape[1] + 1, device=delta.device, dtype=delta.dtype)
    thetas = (largest.cumsum(1) - epsilon) / count  # (B, n): theta if the first j numbers remain
    left = (largest > thetas).sum(1, keepdim=True).clamp_min(1)
    theta = thetas.gather(1, left - 1).clamp_min(0.0)
    return delta.sign() * (size - theta).clamp_min(0.0)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The direction `(B, n)` of length 1 in which a loss with these gradients `(B, n)` rises most; 0 where they are."""
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        length: Tensor = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        return gradient / length.clamp_min(torch.finfo(gradient.dtype).tiny)
    size = gradient.abs()
    smallest = size.topk(math.ceil(size.shape[1] / 100), dim=1).values[:, -1:]
    chosen = gradient.sign() * (size >= smallest)
    return chosen / chosen.abs().sum(1, keepdim=True).clamp_min(1.0)


def random_point(like: Tensor, epsilon: float, norm: Norm, generator: torch.Generator | None = None) -> Tensor:
    """Perturbations `(B, n)`, uniform in the ball; from torch's default generator if none is given."""

    def uniform(columns: int) -> Tensor:
        numbers = torch.rand(len(like), columns, generator=generator, dtype=like.dtype, device=like.device)
        return numbers.clamp_min(torch.finfo(like.dtype).tiny)

    columns = like.shape[1]
    if norm == "linf":
        return (2.0 * uniform(columns) - 1.0) * epsilon
    if norm == "l2":
        direction = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return steepest(direction, "l2") * epsilon * uniform(1) ** (1.0 / columns)
    spacings = -uniform(columns + 1).log()  # (B, n + 1): their shares are uniform on the simplex
    signs = 1.0 - 2.0 * (uniform(columns) < 0.5).to(like.dtype)
    return signs * epsilon * spacings[:, :-1] / spacings.sum(1, keepdim=True)


def units(scale: float | Tensor | NDArray[Any], like: Tensor | None = None) -> float | Tensor:
    """A scale to measure and divide by: 1 in place of 0, the deviation of a number that never varied.

    Args:
        scale: a number, or one for each number of an example.
        like: gives several numbers their dtype and device.

    Raises:
        ValueError: it has negative numbers, infinity or NaN.
    """
    if isinstance(scale, np.ndarray) or (like is not None and isinstance(scale, Tensor)):
        scale = torch.as_tensor(scale) if like is None else torch.as_tensor(scale, dtype=like.dtype, device=like.device)
    values = scale if isinstance(scale, Tensor) else torch.tensor(float(scale), device="cpu")
    if not bool((torch.isfinite(values) & (values >= 0.0)).all()):
        low, high = float(values.min()), float(values.max())
        raise ValueError(
            f"a scale is positive, such as a standard deviation, but its numbers go from {low:g} to {high:g}"
        )
    return nonzero(scale)


def nonzero(scale: float | Tensor) -> float | Tensor:
    """A scale with 1 in place of 0: tensor work alone, for inside an update."""
    return torch.where(scale == 0.0, 1.0, scale) if isinstance(scale, Tensor) else scale or 1.0


def check_scale(x: Tensor, epsilon: float, norm: Norm, bounds: Bounds, scale: Any = 1.0) -> None:
    """Raises ValueError if examples `(B, ...)`, their bounds and epsilon are in different scales, and suggests one."""
    low, high = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in bounds)
    if bool((x < low).any()) or bool((x > high).any()):
        raise ValueError(
            f"x goes from {float(x.min()):.4g} to {float(x.max()):.4g}, outside of bounds={_text(low)} to {_text(high)}"
            ": bring it to that scale (x / 255?), or give its bounds; None for data without any"
        )
    size = float((high - low).max())
    numbers = x[0].numel() if len(x) else 1
    widest = size * {"linf": 1.0, "l2": math.sqrt(numbers), "l1": float(numbers)}[norm]
    if isinstance(scale, float | int) and scale * epsilon > widest:
        raise ValueError(
            f"epsilon={epsilon:g} is more than the whole range of the data ({widest:g} in {norm}): of 8-bit images in "
            f"0 to 1 it would be {epsilon:g} / 255 = {epsilon / 255:.3g}"
        )
    if size == 255.0 and isinstance(scale, float | int) and norm == "linf" and scale * epsilon < 1.0:
        raise ValueError(
            f"epsilon={epsilon:g} is less than one level of data in 0 to 255: meant is {epsilon * 255:.3g}, perhaps"
        )


def _text(side: Tensor) -> str:
    return f"{float(side):g}" if side.dim() == 0 else "..."
