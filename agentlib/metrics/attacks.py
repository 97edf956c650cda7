"""Attacks by gradients of the input: FGSM (Goodfellow et al. 2015, arXiv:1412.6572) and PGD (Madry et al. 2018,
arXiv:1706.06083), on classifiers and on the observations of policies.

    x' = x + d,    d = argmax  L(f(x + d), y)    over  ||d||_p <= epsilon  and  low <= x + d <= high
    d <- clip(P(d + alpha s(g))),    g = dL/dx at x + d

P projects onto the ball around x, s is the steepest direction of length 1 (`norms.py`). For l1 it is sought among the
numbers that the bounds still let go that way. FGSM is one step of size epsilon.

The lecture notes project around the point with noise, so that d may become twice as long, and never clip to the range
of the data: here the ball is around x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from agentlib.metrics.norms import Bounds, Norm, check_scale, nonzero, project, random_point, steepest, units
from agentlib.metrics.scores import logits_from
from agentlib.metrics.targets import labels_for

Model = Callable[[Tensor], Any]
"""Gives an output, or a pair of an output and a state as policies do."""
Loss = Callable[[Any, Tensor], Tensor]
"""(output, y) -> `(B,)`."""
LossName = Literal["cross_entropy", "margin"]


def attack(
    model: Model,
    x: Tensor,
    y: Tensor | NDArray[Any] | None = None,
    *,
    epsilon: float,
    norm: Norm = "linf",
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool | None = None,
    targeted: bool = False,
    bounds: Bounds | None = (0.0, 1.0),
    scale: float | Tensor | NDArray[Any] = 1.0,
    loss: Loss | LossName | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Examples or observations `(B, ...)`, changed by at most epsilon so that a model errs: FGSM (`steps=1`) or PGD.

    The model is attacked in eval mode; its parameters, gradients and modes stay as they are.

    Args:
        model: a classifier or policy, or any function with logits `(B, n)`.
        x: `(B, ...)`, floating-point.
        y: labels, integers of any dtype, or actions, `(B, ...)`; by default the model's own predictions for x.
        epsilon: radius of the ball, measured by `norm` in units of `scale`.
        norm: "linf", "l2" or "l1".
        steps: of projected ascent.
        step_size: of each step; by default epsilon for one step, else 2.5 epsilon / steps.
        restarts: random starts, of which each example gets the worst.
        random_start: start anywhere in the ball; by default with more than one step.
        targeted: make the model predict y.
        bounds: smallest and largest value of the data; None for observations without any.
        scale: the unit of epsilon, such as the deviation of each number; 0, of a constant, counts as 1.
        loss: that becomes large: "cross_entropy", the negative log probability of y; "margin", the largest other score
            minus that of y; or (output, y) -> `(B,)`. By default the margin of action values, else the cross-entropy.
        generator: of the random starts; by default torch's own, as inside an update.

    Raises:
        ValueError: epsilon and data are in different scales, an argument is out of range, or labels are none of the
            model's classes or do not fit.
        TypeError: x is no floating-point tensor.
    """
    random_start = steps > 1 if random_start is None else random_start
    check(x, epsilon, norm, steps, restarts, random_start)
    if bounds is not None:
        check_scale(x, epsilon, norm, bounds, scale)
    if y is None and targeted:
        raise ValueError("a targeted attack needs the label y that the model shall predict")
    with attackable(model):
        x = x.detach().clone()  # one made in inference mode would not take a gradient
        scale, height = units(scale, x), _height(model, x, y, -1.0 if targeted else 1.0, loss)
        search = partial(perturb, height, x, epsilon=epsilon, norm=norm, steps=steps, step_size=step_size,
                         bounds=bounds, scale=scale, random_start=random_start, generator=generator)  # fmt: skip
        return search() if restarts == 1 else _worst(height, [search() for _ in range(restarts)])


def perturb(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    epsilon: float,
    norm: Norm,
    steps: int,
    step_size: float | None = None,
    bounds: Bounds | None = None,
    scale: float | Tensor = 1.0,
    random_start: bool = False,
    clip_start: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected ascent on a loss of each example, `(B,)`: tensor work alone, for inside an update.

    Args:
        loss: of changed examples `(B, ...)`; they need not be classified.
        x: examples `(B, ...)`, floating-point.
        epsilon: as `attack` has it, like the other arguments.
        norm: of the ball.
        steps: of projected ascent.
        step_size: of each.
        bounds: of the data.
        scale: a tensor of the shape of one example gives each number its own unit; 0 counts as 1.
        random_start: start anywhere in the ball, not at x.
        clip_start: keep the start within the bounds, as all that follows is.
        generator: of the start.

    Returns:
        Changed examples `(B, ...)`, detached.
    """
    if step_size is None:  # enough to get from one side of the ball to the other
        step_size = epsilon if steps == 1 else 2.5 * epsilon / steps
    with torch.no_grad():
        scale = nonzero(scale)
        low, high = bounds if bounds is not None else (-math.inf, math.inf)
        room = [((side - x) / scale).flatten(1) for side in (low, high)]  # (B, n) each, in units of the perturbation
        delta = torch.zeros_like(x).flatten(1)
        if random_start:
            delta = random_point(delta, epsilon, norm, generator)
            delta = delta.clamp(*room) if clip_start else delta
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


def _worst(height: Callable[[Tensor], Tensor], candidates: list[Tensor]) -> Tensor:
    """Of each example the highest point; the first of equal ones."""
    with torch.no_grad():
        heights = torch.stack([height(points) for points in candidates]).nan_to_num(-math.inf)  # (restarts, B)
    return torch.stack(candidates)[heights.argmax(0), torch.arange(len(candidates[0]), device=heights.device)]


def margin(scores: Tensor, y: Tensor) -> Tensor:
    """The largest other score minus that of y, `(...)`, for scores `(..., n)`; above 0 where y is not the best.

    Its gradient has one direction whatever the scale of the scores, where that of the cross-entropy is 0 in float32
    once a score leads by a hundred (Carlini & Wagner 2017, arXiv:1608.04644, f6 with kappa = infinity).
    """
    index = y.unsqueeze(-1)
    return scores.scatter(-1, index, -math.inf).amax(-1) - scores.gather(-1, index).squeeze(-1)


def loss_name(model: Model, loss: Loss | LossName | None = None) -> str:
    """The name of the loss by which `attack` attacks a model; "own" of a function."""
    if loss is None:
        return "margin" if getattr(model, "gives_values", False) else "cross_entropy"
    return "own" if callable(loss) else loss


def loss_of(model: Model, name: LossName | None = None) -> Loss:
    """The loss of a model's output and y by its name: on its own `log_prob`, or on its scores.

    Raises:
        ValueError: an unknown name, or the margin of a model without one score for each option.
    """
    name = loss_name(model, name)  # type: ignore[assignment]
    if name not in get_args(LossName):
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(get_args(LossName))}, or a function of output, y")
    is_stochastic = hasattr(model, "log_prob")
    if name == "cross_entropy" and is_stochastic:
        return lambda output, y: -model.log_prob(output, y)  # type: ignore[attr-defined]
    if is_stochastic and len(getattr(model, "branches", ())) != 1:
        raise ValueError(f"the margin needs one score for each option, which {type(model).__name__} does not give")

    def on_scores(output: Any, y: Tensor) -> Tensor:
        scores = logits_from(model, output)
        y = labels_for(scores.shape[:-1], y)
        return margin(scores, y) if name == "margin" else functional.cross_entropy(scores, y, reduction="none")

    return on_scores


@contextmanager
def attackable(model: Model) -> Iterator[None]:
    """Eval mode and gradients inside; afterwards every module's mode is what it was."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _output(model: Model, x: Tensor) -> Any:
    output = model(x)
    return output[0] if isinstance(output, tuple) else output


def _height(model: Model, x: Tensor, y: Any, sign: float, loss: Loss | LossName | None) -> Callable[[Tensor], Tensor]:
    """The loss of points `(B, ...)`, which the attack makes large; the first output tells the classes of labels y."""
    is_checked = y is None or callable(loss)
    measure = loss if callable(loss) else loss_of(model, loss)
    if y is None:
        with torch.no_grad():
            y = _choice(model, _output(model, x))
    elif is_checked:
        y = torch.as_tensor(y, device=x.device).clone()

    def height(point: Tensor) -> Tensor:
        nonlocal y, is_checked
        output = _output(model, point)
        if not is_checked:
            y, is_checked = _target(model, output, y, x.device), True
        return sign * measure(output, y)

    return height


def _target(model: Any, output: Any, y: Any, device: torch.device) -> Tensor:
    """Labels or actions y as the loss of a model takes them; labels are looked at."""
    branches = getattr(model, "branches", ())
    if not branches and hasattr(model, "log_prob"):  # real-valued actions
        return torch.as_tensor(y, device=device).clone()
    *shape, classes = (*model.choose(output).shape, max(branches)) if branches else logits_from(model, output).shape
    return labels_for(shape, y, classes, "y").to(device).clone()


def _choice(model: Any, output: Any) -> Tensor:
    choice: Tensor = model.choose(output) if hasattr(model, "choose") else output.argmax(-1)
    return choice


def check(x: Tensor, epsilon: float, norm: str, steps: int, restarts: int = 1, random_start: bool = True) -> None:
    """Raises ValueError or TypeError for arguments of an attack that are out of range, or examples without gradient."""
    if norm not in get_args(Norm):
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(get_args(Norm))}")
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"an attack follows gradients of its input, a floating-point tensor, not {kind}: for images of "
                        "uint8 give x.float() / 255")  # fmt: skip
    if not 0.0 < epsilon < math.inf or steps < 1 or restarts < 1:
        raise ValueError(f"an attack needs epsilon > 0, steps and restarts of at least 1; not {epsilon}, {steps}, "
                         f"{restarts}")  # fmt: skip
    if restarts > 1 and not random_start:
        raise ValueError("restarts differ in their random start: give random_start=True")
