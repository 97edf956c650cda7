"""Attacks without numbers to tune, one after the other, in the manner of AutoAttack (Croce & Hein 2020,
arXiv:2003.01690).

    APGD:    z = P(x_k + a s(g)),    x_k+1 = P(x_k + .75 (z - x_k) + .25 (x_k - x_k-1))
    a <- a / 2 and x_k+1 <- the best point,  at marks w_j where less than .75 of the steps since w_j-1 rose, or neither
         a nor the best loss changed since;   a starts at 2 epsilon
    losses:  cross-entropy, and DLR = -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)  for each of the likeliest targets t
    Square (Andriushchenko et al. 2020, arXiv:1912.00049): random squares of +-epsilon, kept where the margin rises

z are logits, z_(i) the i-th largest. DLR does not see their scale, which can hide a gradient; Square needs no gradient
at all. We differ: FAB is left out, Square is of l-infinity alone, and there are neither restarts nor l1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from agentlib.metrics.attacks import Model, attackable, check, margin
from agentlib.metrics.norms import Bounds, Norm, check_scale, project, random_point, steepest, units
from agentlib.metrics.scores import logits_from
from agentlib.metrics.targets import labels_for

RISES, MOMENTUM = 0.75, 0.75
"""Share of the steps between two marks that must rise, and of the new direction in a step of APGD."""
FIRST_SHARE = 0.8
"""Of an image that the first square of Square covers."""
HALVINGS = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)
"""Of 10,000 queries those after which that share is halved."""

Height = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of points `(B, ...)` a loss `(B,)`, and whether the model errs there `(B,)`."""


def marks(steps: int) -> list[int]:
    """The steps w_j = ceil(p_j n) of APGD: p_1 = .22, and each way to the next is .03 shorter, but .06 at least."""
    shares, way = [0.22], 0.22
    while shares[-1] < 1.0:
        way = max(way - 0.03, 0.06)
        shares.append(shares[-1] + way)
    return [math.ceil(round(share * steps, 9)) for share in shares[:-1]]


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), `(B,)`, of logits `(B, K)` of four classes at least."""
    top = logits.topk(4, 1).values
    own, other = (logits.gather(1, index[:, None])[:, 0] for index in (y, target))
    return (other - own) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


def apgd(
    height: Height,
    x: Tensor,
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 100,
    bounds: Bounds | None = None,
    scale: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The highest points, or those at which the model errs, that ascents with halving steps have found, `(B, ...)`.

    Args:
        height: a loss, which has a gradient, and the errors.
        x: examples `(B, ...)`, floating-point.
        epsilon: radius of the ball, in units of `scale`.
        norm: "linf" or "l2".
        steps: of ascent.
        bounds: of the data.
        scale: the unit of each number.
        generator: of the random starts.
    """
    low, high = bounds or (-math.inf, math.inf)
    room = [((side - x) / scale).flatten(1) for side in (low, high)]

    def at(delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        point = (x + scale * delta.view_as(x)).detach().requires_grad_()
        loss, errs = height(point)
        (slope,) = torch.autograd.grad(loss.sum(), point)
        return loss.detach().nan_to_num(-math.inf), errs, (slope * scale).flatten(1).nan_to_num(0.0)  # NaN is lowest

    def moved(delta: Tensor) -> Tensor:
        return project(delta, epsilon, norm).clamp(*room)

    delta = moved(random_point(torch.zeros_like(x).flatten(1), epsilon, norm, generator))
    loss, errs, gradient = at(delta)
    before, best, best_delta, best_gradient = delta, loss, delta, gradient
    answer, size = delta, torch.full_like(delta[:, :1], 2.0 * epsilon)
    rises, was_halved, best_at_mark, mark = torch.zeros_like(loss), torch.ones_like(errs), best, 0
    for step in range(1, steps + 1):
        share = MOMENTUM if step > 1 else 1.0
        way = moved(delta + size * steepest(gradient, norm)) - delta
        before, delta = delta, moved(delta + share * way + (1.0 - share) * (delta - before))
        earlier, (loss, errs_here, gradient) = loss, at(delta)
        rises += loss > earlier
        is_better = loss > best
        best = torch.where(is_better, loss, best)
        best_delta = torch.where(is_better[:, None], delta, best_delta)
        best_gradient = torch.where(is_better[:, None], gradient, best_gradient)
        answer = torch.where((errs_here | (is_better & ~errs))[:, None], delta, answer)
        errs = errs | errs_here
        if step in marks(steps):
            is_stuck = (rises < RISES * (step - mark)) | (~was_halved & (best <= best_at_mark))
            size = torch.where(is_stuck[:, None], 0.5 * size, size)
            delta = torch.where(is_stuck[:, None], best_delta, delta)
            gradient = torch.where(is_stuck[:, None], best_gradient, gradient)
            rises, was_halved, best_at_mark, mark = torch.zeros_like(rises), is_stuck, best, step
    changed = (x + scale * answer.view_as(x)).detach()
    return changed if bounds is None else changed.clamp(low, high)  # type: ignore[arg-type] # rounding


@torch.no_grad()
def square(
    height: Height,
    x: Tensor,
    *,
    epsilon: float,
    queries: int = 5_000,
    bounds: Bounds | None = None,
    scale: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The highest points `(B, ...)` in the ball of l-infinity that random squares have found; no gradient is needed.

    Of images `(B, C, H, W)` a square has a sign for each channel; other examples are rows of numbers. Where a side is
    shorter than the square, a rectangle covers the same share. The arguments are those of `apgd`.
    """
    shape = x.shape if x.dim() == 4 else (len(x), 1, 1, x[0].numel())
    n, channels, rows, columns = shape
    low, high = bounds if bounds is not None else (-math.inf, math.inf)

    def signs(*sides: int) -> Tensor:
        draws = torch.rand(n, channels, *sides, generator=generator, dtype=x.dtype, device=x.device)
        return 1.0 - 2.0 * (draws < 0.5).to(x.dtype)

    def at(delta: Tensor) -> Tensor:
        changed: Tensor = x + scale * delta.view_as(x)
        return changed if bounds is None else changed.clamp(low, high)  # type: ignore[arg-type]

    best_delta = epsilon * signs(1, columns).expand(shape).clone()
    best, errs = height(at(best_delta))
    down, across = (torch.arange(side, device=x.device)[None] for side in (rows, columns))
    for query in range(queries):
        if bool(errs.all()):
            break
        share = FIRST_SHARE * 0.5 ** sum(query * 10_000 > queries * one for one in HALVINGS)
        area = share * rows * columns
        tall = wide = max(1, round(math.sqrt(area)))
        if tall > rows:
            tall, wide = rows, round(area / rows)
        elif wide > columns:
            tall, wide = round(area / columns), columns
        top, left = (
            torch.randint(most + 1, (n, 1), generator=generator, device=x.device)
            for most in (rows - tall, columns - wide)
        )
        in_rows, in_columns = (down >= top) & (down < top + tall), (across >= left) & (across < left + wide)
        inside = in_rows[:, None, :, None] & in_columns[:, None, None]  # (n, 1, H, W)
        delta = torch.where(inside, epsilon * signs(1, 1), best_delta)
        loss, errs_here = height(at(delta))
        is_better = ~errs & ((loss > best) | errs_here)
        best = torch.where(is_better, loss, best)
        best_delta = torch.where(is_better[:, None, None, None], delta, best_delta)
        errs = errs | errs_here
    return at(best_delta)


def _towards(target: Tensor, logits: Tensor, own: Tensor, rows: Tensor) -> Tensor:
    return targeted_dlr(logits, own, target[rows])


class _Standing:
    """The examples that a model still gets right, and what the others became."""

    def __init__(self, model: Model, x: Tensor, y: Any) -> None:
        self.model, self.found = model, x.detach().clone()
        with torch.no_grad():
            self.clean = self.scores(self.found)
        self.labels = labels_for(x.shape[:1], y, self.clean.shape[-1], "y").to(x.device).clone()
        self.rows = (self.clean.argmax(1) == self.labels).nonzero()[:, 0]

    def scores(self, points: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        return logits_from(self.model, self.model(points))

    def attempt(self, loss: Callable[[Tensor, Tensor, Tensor], Tensor], search: Callable[..., Tensor]) -> None:
        """Searches from those that stand by a loss of (logits, own labels, rows)."""
        rows, own = self.rows, self.labels[self.rows]
        if not len(rows):
            return

        def height(points: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.scores(points)
            return loss(logits, own, rows), logits.argmax(1) != own

        changed = search(height, self.found[rows])
        with torch.no_grad():
            errs = self.scores(changed).argmax(1) != own
        self.found[rows[errs]] = changed[errs]
        self.rows = rows[~errs]


def auto_attack(
    model: Model,
    x: Tensor,
    y: Tensor | NDArray[Any],
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 100,
    targets: int = 9,
    queries: int = 5_000,
    bounds: Bounds | None = (0.0, 1.0),
    scale: float | Tensor | NDArray[Any] = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Examples `(B, ...)`, changed by at most epsilon so that a model errs; those that withstand all stay as they are.

    APGD on the cross-entropy, APGD on the targeted DLR for the likeliest other classes (of fewer than four classes, or
    of four that are not all possible, on the margin), then Square; each on the examples that withstood those before.

    Args:
        model: a classifier or policy, attacked in eval mode, or any function with logits `(B, K)`.
        x: `(B, ...)`, floating-point.
        y: true classes `(B,)`.
        epsilon: radius of the ball, as `attack` has it, like the other arguments.
        norm: "linf" or "l2".
        steps: of each ascent.
        targets: other classes that are aimed at, at most.
        queries: of Square; 0 leaves it out.
        bounds: of the data.
        scale: the unit of epsilon.
        generator: of starts and squares; by default torch's own.

    Raises:
        ValueError: another norm, an argument out of range, or labels that do not fit.
        TypeError: x is no floating-point tensor.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f"the automatic attack is for the norms linf and l2, not {norm!r}: take PGD")
    if targets < 0 or queries < 0:
        raise ValueError(f"targets and queries are 0 or more, not {targets} and {queries}")
    check(x, epsilon, norm, steps)
    if bounds is not None:
        check_scale(x, epsilon, norm, bounds, scale)
    how: Any = {"epsilon": epsilon, "bounds": bounds, "scale": units(scale, x), "generator": generator}
    ascent = partial(apgd, norm=norm, steps=steps, **how)
    with attackable(model):
        standing = _Standing(model, x, y)
        clean, labels = standing.clean, standing.labels
        standing.attempt(lambda logits, own, rows: functional.cross_entropy(logits, own, reduction="none"), ascent)
        if bool((clean.isfinite().sum(1) < 4).any()):  # -inf rules a class out
            standing.attempt(lambda logits, own, rows: margin(logits, own), ascent)
        else:
            scores, others = clean.scatter(1, labels[:, None], -math.inf).sort(1, descending=True)
            others = others.where(scores.isfinite(), others[:, :1])  # not the own class, nor one that is ruled out
            for target in others[:, :-1].unbind(1)[:targets]:
                standing.attempt(partial(_towards, target), ascent)
        if norm == "linf" and queries:
            standing.attempt(lambda logits, own, rows: margin(logits, own), partial(square, queries=queries, **how))
    return standing.found
