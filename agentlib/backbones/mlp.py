"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from agentlib.backbones.base import Backbone, Spec

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activation_named(name: str) -> type[nn.Module]:
    """The activation's class.

    Raises:
        ValueError: unknown name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class MLP(Backbone):
    """Linear layers with an activation after each; an input of any shape is flattened.

    Args:
        input_dim: numbers in one observation.
        hidden: width of each layer; empty for the flattened input itself.
        activation: name of the nonlinearity.
    """

    def __init__(self, input_dim: int, hidden: Sequence[int] = (64, 64), activation: str = "relu") -> None:
        super().__init__()
        self.input_dim, self.hidden, self.activation = int(input_dim), tuple(hidden), activation
        widths = (self.input_dim, *self.hidden)
        make_activation = activation_named(activation)
        layers = [
            layer for fan_in, fan_out in pairwise(widths) for layer in (nn.Linear(fan_in, fan_out), make_activation())
        ]
        self.layers = nn.Sequential(*layers)
        self.feature_dim = widths[-1]

    @property
    def spec(self) -> Spec:
        arguments = {"input_dim": self.input_dim, "hidden": list(self.hidden), "activation": self.activation}
        return {"name": "mlp", "arguments": arguments}

    def forward(self, observation: Tensor) -> Tensor:
        features: Tensor = self.layers(observation.flatten(1).float())  # (B, feature_dim)
        return features
