"""Derivatives of any network, of inputs or parameters (uses `torch.func`), and the check of them.

    J = df/dx,    jvp: J v (forward, a column at a time),    vjp: u' J (backward, a row at a time),    H = d^2 f / dx^2
    df/dx_i ~ (f(x + h e_i) - f(x - h e_i)) / 2h + O(h^2)

`of_inputs` and `of_parameters` make a plain function of a network; the others take any such function. A Jacobian of m
outputs and n inputs costs m backward passes or n forward ones. Sources: Baydin et al. 2018, arXiv:1502.05767.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacfwd, jacrev
from torch.func import jvp as forward_product
from torch.func import vjp as backward_product

Function = Callable[[Any], Any]
"""From a tensor, or a dict of tensors, to a tensor."""


def of_inputs(network: nn.Module) -> Function:
    """The network as a function of one batch; of a policy's pair (output, state) it gives the output."""

    def function(x: Any) -> Any:
        output = network(x)
        return output[0] if isinstance(output, tuple) else output

    return function


def of_parameters(network: nn.Module, x: Any) -> tuple[Function, dict[str, Tensor]]:
    """The network's output for one batch as a function of its trainable parameters, and these parameters."""
    parameters = {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}

    def function(values: dict[str, Tensor]) -> Any:
        output = functional_call(network, values, (x,))
        return output[0] if isinstance(output, tuple) else output

    return function, parameters


def jvp(function: Function, x: Any, direction: Any) -> Tensor:
    """J v: how the output moves when x moves along `direction`, which has x's shape."""
    product: Tensor = forward_product(function, (x,), (direction,))[1]
    return product


def vjp(function: Function, x: Any, weights: Tensor) -> Any:
    """u' J: the gradient of the outputs, summed with `weights`, which have the output's shape."""
    return backward_product(function, x)[1](weights)[0]


def jacobian(function: Function, x: Any, forward: bool = False) -> Any:
    """J, in the output's shape followed by x's; `forward` builds it by columns, for many outputs and few inputs."""
    return (jacfwd if forward else jacrev)(function)(x)


def second_derivatives(function: Function, x: Any) -> Any:
    """H of a function to a single number, in x's shape twice."""
    return hessian(function)(x)


def gradient_error(function: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-5) -> float:
    """The largest difference between autograd and central differences, as a share of the largest derivative.

    About 1e-9 where all is right, except at kinks such as ReLU's at 0.

    Args:
        function: to a single number.
        x: float64, since float32 would hide errors in its rounding.
        step: h.

    Raises:
        TypeError: x is not float64.
    """
    if x.dtype != torch.float64:
        raise TypeError(f"central differences need float64, not {x.dtype}: give x.double(), and a network in double")
    point = x.detach().clone().requires_grad_()
    (exact,) = torch.autograd.grad(function(point), point)
    with torch.no_grad():
        steps = step * torch.eye(x.numel(), dtype=x.dtype, device=x.device).view(-1, *x.shape)
        numeric = torch.stack([(function(x + one) - function(x - one)) / (2.0 * step) for one in steps])
        largest = torch.maximum(exact.abs().max(), numeric.abs().max()).clamp_min(torch.finfo(x.dtype).tiny)
        return float((exact.flatten() - numeric.flatten()).abs().max() / largest)
