"""Nonlinearities by name."""

from __future__ import annotations

from torch import nn

from agentlib.core.names import look_up

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
"""ELU is a (e^x - 1) below zero; GELU is the exact one, by the error function; leaky ReLU has the slope 0.01."""


def activation_named(name: str) -> type[nn.Module]:
    """The activation's class.

    Raises:
        ValueError: unknown name.
    """
    return look_up("activation", name, ACTIVATIONS)
