"""Optimizer rules: pure tensor functions from a gradient to a change of the parameters.

A rule sees parameters joined to flat vectors, so that a whole update is a handful of operations and fits into one
compiled graph. `agentlib.core.Step` joins them, keeps the slots and applies the change.

Each rule equals its namesake in `torch.optim`, step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from agentlib.core.config import Config, Count, NonNegative
from agentlib.core.config import Rate as LearningRate
from agentlib.core.schedules import Schedule
from agentlib.core.step import Rate, Rule, once


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


def adam(
    learning_rate: Schedule = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    *,
    decoupled: bool = False,
) -> Rule:
    """Adam (Kingma & Ba 2015, algorithm 1), with bias correction.

    `weight_decay` adds an L2 term to the gradient; where it is `decoupled`, it shrinks matrices, as in `adamw`.
    """
    beta1, beta2 = betas

    def numbers(scalars: dict[str, Tensor], rate: Rate) -> tuple[Tensor, Tensor]:
        # The corrections are taken in float64: 1 - 0.999**t loses five digits in float32, and training amplifies it.
        # The powers are kept between steps: a compiled update would compute them again for every few parameters.
        scale = rate / (1.0 - scalars["beta1_power"].mul_(beta1))
        return once(scale), once((1.0 - scalars["beta2_power"].mul_(beta2)).sqrt())

    def change(gradient: Tensor, memory: dict[str, Tensor], scale: Tensor, root: Tensor) -> Tensor:
        mean = without_denormals(memory["mean"].lerp_(gradient, 1.0 - beta1))
        square = without_denormals(memory["square"].mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2))
        return (-scale * mean) / (square.sqrt() / root + eps)  # in the order of torch.optim, to the last bit

    powers = {"beta1_power": 1.0, "beta2_power": 1.0}
    return Rule(learning_rate, ("mean", "square"), change, powers, numbers, weight_decay, decoupled)


def adamw(
    learning_rate: Schedule = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Rule:
    """AdamW (Loshchilov & Hutter 2019): Adam, and matrices shrink by `learning_rate * weight_decay` each step."""
    return adam(learning_rate, betas, eps, weight_decay, decoupled=True)


def lars(learning_rate: Schedule = 0.3, momentum: float = 0.9, weight_decay: float = 1e-6, trust: float = 1e-3) -> Rule:
    """LARS (You et al. 2017, arXiv:1708.03888, algorithm 1), for large batches: each matrix has a rate of its own.

    r = trust |w| / (|g| + weight_decay |w|);  v <- momentum v + r (g + weight_decay w);  w <- w - learning_rate v

    Biases and gains (one dimension) have r = 1 and no decay, as SimCLR (Chen et al. 2020) has it; so have matrices
    whose norm, or whose gradient's norm, is 0. The learning rate multiplies v, and not what enters it, so that a
    falling schedule acts at once, as in `sgd`.
    """

    def change(
        gradients: list[Tensor], memory: dict[str, list[Tensor]], parameters: list[Tensor], rate: Rate
    ) -> list[Tensor]:
        changes = []
        for gradient, velocity, weight in zip(gradients, memory["momentum"], parameters, strict=True):
            if weight.dim() > 1:
                size, slope = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
                ratio = trust * size / (slope + weight_decay * size)
                ratio = torch.where((size > 0) & (slope > 0), ratio, torch.ones_like(ratio))
                gradient = ratio * (gradient + weight_decay * weight)
            changes.append(-rate * velocity.mul_(momentum).add_(gradient))
        return changes

    return Rule(learning_rate, ("momentum",), change, elementwise=False)


@dataclass(frozen=True, kw_only=True)
class Optimized(Config):
    """The fields of every config: a learning rate, the size of batches, and the optimizer that they make."""

    learning_rate: LearningRate = 1e-3
    """Learning rate: a number or a schedule."""
    batch_size: Count = 64
    """Samples per update."""
    max_grad_norm: NonNegative | None = None
    """Clip gradients to this global norm; None disables clipping."""
    optimizer_name: Literal["adam", "adamw", "rmsprop", "sgd", "adagrad", "lars"] = "adam"
    """Optimizer, its other numbers at their defaults; `train(..., optimizer="adamw")` is short for it."""

    def optimizer(self) -> Rule:
        """The rule by which the parameters are changed."""
        rules: dict[str, Callable[[LearningRate], Rule]] = {"adam": adam, "adamw": adamw, "rmsprop": rmsprop}
        rules |= {"sgd": sgd, "adagrad": adagrad, "lars": lars}
        return rules[self.optimizer_name](self.learning_rate)
