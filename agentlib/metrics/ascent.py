"""Projected ascent on a loss, within a ball and the bounds of the data: what all attacks here are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from agentlib.metrics.norms import Bounds, Norm, project, random_point, steepest


def perturb(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    epsilon: float,
    norm: Norm,
    steps: int,
    step_size: float,
    bounds: Bounds | None = None,
    scale: float | Tensor = 1.0,
    random_start: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected ascent on a loss of each example, `(B,)`: tensor work alone, for inside an update.

    Args:
        loss: of changed examples `(B, ...)`; they need not be classified.
        x: examples `(B, ...)`, floating-point.
        epsilon: radius of the ball, in units of `scale`.
        norm: of the ball.
        steps: of projected ascent.
        step_size: length of each, in units of `scale`.
        bounds: of the data; None leaves it free.
        scale: the unit of a perturbation; a tensor of the shape of one example gives each number its own.
        random_start: start anywhere in the ball, not at x.
        generator: of the start; torch's default if there is none.

    Returns:
        Changed examples `(B, ...)`, detached.
    """
    with torch.no_grad():
        low, high = bounds if bounds is not None else (-math.inf, math.inf)
        room = [((side - x) / scale).flatten(1) for side in (low, high)]  # (B, n) each, in units of the perturbation
        delta = torch.zeros_like(x).flatten(1)
        if random_start:
            delta = random_point(delta, epsilon, norm, generator).clamp(*room)
    for _ in range(steps):
        point = (x + scale * delta.view_as(x)).detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(point).sum(), point)
        with torch.no_grad():
            gradient = (slope * scale).flatten(1)
            if norm == "l1":  # spends the budget only where there is room
                stuck = ((gradient > 0) & (delta >= room[1])) | ((gradient < 0) & (delta <= room[0]))
                gradient = gradient.masked_fill(stuck, 0.0)
            delta = project(delta + step_size * steepest(gradient, norm), epsilon, norm).clamp(*room)
    changed = (x + scale * delta.view_as(x)).detach()
    return changed if bounds is None else changed.clamp(low, high)  # type: ignore[arg-type] # rounding


def default_step_size(epsilon: float, steps: int) -> float:
    """Epsilon for one step, else 2.5 epsilon / steps: enough to get from one side of the ball to the other."""
    return epsilon if steps == 1 else 2.5 * epsilon / steps
