"""Adapting weights to a task by steps of gradient descent, and the losses that lead through these steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

Parameters = Mapping[str, Tensor]
Loss = Callable[[Parameters, Any], Tensor]
"""(parameters by name, examples of one task) to a 0-dim loss, without side effects."""


def adapted(
    loss: Loss, parameters: Parameters, support: Any, rate: float, steps: int, first_order: bool = False
) -> Parameters:
    """The parameters after `steps` steps of gradient descent on the support; differentiable, unless `first_order`."""
    for _ in range(steps):
        slopes = grad(loss)(dict(parameters), support)
        if first_order:
            slopes = {name: slope.detach() for name, slope in slopes.items()}
        parameters = {name: value - rate * slopes[name] for name, value in parameters.items()}
    return parameters


def query_losses(
    loss: Loss, parameters: Parameters, support: Any, query: Any, rate: float, steps: int, first_order: bool = False
) -> Tensor:
    """The loss on each task's query, `(tasks,)`, after adapting to its support."""

    def of_task(one_support: Any, one_query: Any) -> Tensor:
        return loss(adapted(loss, parameters, one_support, rate, steps, first_order), one_query)

    return vmap(of_task, randomness="different")(support, query)


def reptile_losses(
    loss: Loss, parameters: Parameters, support: Any, query: Any, rate: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Reptile's surrogate and the losses on the way, both `(tasks,)` (Nichol et al. 2018, arXiv:1803.02999).

    The gradient of the surrogate is (theta - theta_i) / rate: the sum of the slopes of the steps that led to theta_i,
    which are taken on the support and on the query by turns. The losses are the means before each step.
    """

    def of_task(*examples: Any) -> tuple[Tensor, Tensor]:
        weights = {name: value.detach() for name, value in parameters.items()}
        products, losses = list[Tensor](), list[Tensor]()
        for step in range(steps):
            slopes, value = grad_and_value(loss)(weights, examples[step % 2])
            products += [(parameters[name] * slope).sum() for name, slope in slopes.items()]
            losses.append(value)
            weights = {name: weight - rate * slopes[name] for name, weight in weights.items()}
        return torch.stack(products).sum(), torch.stack(losses).mean()

    return vmap(of_task, randomness="different")(support, query)
