"""Optimizer rules: pure tensor functions from a gradient to a change of the parameters.

A rule sees parameters joined to flat vectors, so that a whole update is a handful of operations and fits into one
compiled graph. `agentlib.training.Step` joins them, keeps the slots and applies the change.

Each rule equals its namesake in `torch.optim`, step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agentlib.backbones.base import once
from agentlib.backbones.schedules import Schedule

Rate = float | Tensor
"""A learning rate; a 0-dim tensor if it follows a schedule."""
Numbers = Callable[[dict[str, Tensor], Rate], tuple[Rate, ...]]
"""(scalars, learning rate) -> what one step uses for all parameters. The scalars are updated in place, before they are
read: compiled code was seen to write the new value of a number before all had read the old one."""
Change = Callable[..., Tensor]
"""(gradient (N,), slots (N,) by name, *numbers) -> change (N,), element by element. The slots are updated in place."""


@dataclass(frozen=True)
class Rule:
    """How a gradient becomes a change of the parameters."""

    learning_rate: Schedule
    """A number or a schedule."""
    slots: tuple[str, ...]
    """Names of the vectors that the rule remembers from step to step."""
    change: Change
    """The rule itself. The change is proportional to the learning rate, so that modules can have rates of their own."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """Names and first values of the 0-dim float64 numbers that the rule remembers."""
    numbers: Numbers = lambda scalars, rate: (rate,)
    """What is the same for all parameters, taken once in a step; the learning rate by default."""
    weight_decay: float = 0.0
    """Strength of the decay of matrices and filters; biases and gains (one dimension) are left alone."""
    decoupled: bool = False
    """True: parameters shrink by `learning_rate * weight_decay` (AdamW). False: the gradient gets an L2 term."""


def sgd(learning_rate: Schedule, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Rule:
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum.

    v <- momentum * v + g;  theta <- theta - learning_rate * v        (Sutskever et al. 2013, in torch's form)

    Raises:
        ValueError: nesterov without momentum.
    """
    if nesterov and momentum <= 0.0:
        raise ValueError("sgd(nesterov=True) needs momentum > 0")

    def change(gradient: Tensor, memory: dict[str, Tensor], rate: Rate) -> Tensor:
        if momentum == 0.0:
            return -rate * gradient
        velocity = without_denormals(memory["momentum"].mul_(momentum).add_(gradient))
        return -rate * (gradient + momentum * velocity if nesterov else velocity)

    return Rule(learning_rate, ("momentum",) if momentum else (), change, weight_decay=weight_decay)


def adagrad(learning_rate: Schedule = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0) -> Rule:
    """Adagrad (Duchi et al. 2011): s <- s + g^2;  theta <- theta - learning_rate g / (sqrt(s) + eps)."""

    def change(gradient: Tensor, memory: dict[str, Tensor], rate: Rate) -> Tensor:
        square = memory["square"].addcmul_(gradient, gradient)
        return -rate * (gradient / (square.sqrt() + eps))

    return Rule(learning_rate, ("square",), change, weight_decay=weight_decay)


def rmsprop(learning_rate: Schedule, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0) -> Rule:
    """RMSProp (Hinton 2012, lecture 6e): s <- alpha s + (1-alpha) g^2;  theta <- theta - lr g / (sqrt(s) + eps)."""

    def change(gradient: Tensor, memory: dict[str, Tensor], rate: Rate) -> Tensor:
        square = without_denormals(memory["square"].mul_(alpha).addcmul_(gradient, gradient, value=1.0 - alpha))
        return -rate * (gradient / (square.sqrt() + eps))

    return Rule(learning_rate, ("square",), change, weight_decay=weight_decay)


def without_denormals(memory: Tensor) -> Tensor:
    """The vector, with what is close to the smallest numbers of its type (1e-30 in float32) set to zero in place.

    Where a unit is dead its gradient is 0, and averages of it fade into denormal numbers, on which processors are many
    times slower: a DQN whose units had died took twice as long for its updates. No parameter feels numbers so small.
    """
    threshold = torch.finfo(memory.dtype).tiny * 1e8
    return torch.ops.aten.hardshrink.out(memory, threshold, out=memory)  # type: ignore[no-any-return]


def _adam(
    learning_rate: Schedule, betas: tuple[float, float], eps: float, weight_decay: float, decoupled: bool
) -> Rule:
    beta1, beta2 = betas

    def numbers(scalars: dict[str, Tensor], rate: Rate) -> tuple[Tensor, Tensor]:
        # The corrections are taken in float64: 1 - 0.999**t loses five digits in float32, and training amplifies it.
        # The powers are remembered, since a compiled update would raise them anew for every few parameters.
        scale = rate / (1.0 - scalars["beta1_power"].mul_(beta1))
        return once(scale), once((1.0 - scalars["beta2_power"].mul_(beta2)).sqrt())

    def change(gradient: Tensor, memory: dict[str, Tensor], scale: Tensor, root: Tensor) -> Tensor:
        mean = without_denormals(memory["mean"].lerp_(gradient, 1.0 - beta1))
        square = without_denormals(memory["square"].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2))
        return (-scale * mean) / (square.sqrt() / root + eps)  # in the order of torch.optim, to the last bit

    powers = {"beta1_power": 1.0, "beta2_power": 1.0}
    return Rule(learning_rate, ("mean", "square"), change, powers, numbers, weight_decay, decoupled)


def adam(
    learning_rate: Schedule = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> Rule:
    """Adam (Kingma & Ba 2015, algorithm 1), with bias correction; `weight_decay` adds an L2 term to the gradient."""
    return _adam(learning_rate, betas, eps, weight_decay, decoupled=False)


def adamw(
    learning_rate: Schedule = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Rule:
    """AdamW (Loshchilov & Hutter 2019): Adam, and matrices shrink by `learning_rate * weight_decay` each step."""
    return _adam(learning_rate, betas, eps, weight_decay, decoupled=True)
