"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from agentlib.backbones.base import Backbone
from agentlib.backbones.layers import ACTIVATIONS, dtype_of, initialize, normalized, outputs_at, scale_branches
from agentlib.core.names import look_up


class Residual(nn.Sequential):
    """x + f(x), where f is the modules one after another."""

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return x + branch


class MLP(Backbone):
    """Linear layers with an activation after each; an input of any shape is flattened.

    a = dropout(activation(norm(W x + b))), and with `residual` x + a wherever x is as wide as a. The residual branches
    start scaled by 1 / sqrt(their number).

    Args:
        input_dim: numbers in one observation.
        hidden: width of each layer; empty for the flattened input itself.
        activation: name of the nonlinearity.
        norm: name of the normalization, see `agentlib.backbones.layers`.
        dropout: share of the activations that are zeroed in training; the others grow by 1 / (1 - dropout).
        residual: add the input of a layer to its output.
        init: name of the initialization, see `agentlib.backbones.layers`.
    """

    kind = "mlp"

    def __init__(
        self,
        input_dim: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        residual: bool = False,
        init: str = "torch",
    ) -> None:
        super().__init__()
        self.input_dim, self.hidden, self.activation = int(input_dim), tuple(hidden), activation
        self.norm, self.dropout, self.residual, self.init = norm, float(dropout), bool(residual), init
        widths = (self.input_dim, *self.hidden)
        make_activation = look_up("activation", activation, ACTIVATIONS)
        layers: list[nn.Module] = []
        branch_ends: list[nn.Module] = []
        self.ends: list[int] = []  # where in `layers` each hidden layer ends
        for fan_in, fan_out in pairwise(widths):
            linear = nn.Linear(fan_in, fan_out)
            initialize(linear, init)
            scaled = normalized(linear, norm)
            layer = [*scaled, make_activation()] + ([nn.Dropout(dropout)] if dropout else [])
            if residual and fan_in == fan_out:
                branch_ends.append(scaled[-1])
                layer = [Residual(*layer)]
            layers += layer
            self.ends.append(len(layers) - 1)
        if residual:
            scale_branches(branch_ends)
        self.layers = nn.Sequential(*layers)
        self.feature_dim = widths[-1]

    def forward(self, observation: Tensor) -> Tensor:
        features: Tensor = self.layers(self._rows(observation))  # (B, feature_dim)
        return features

    def _rows(self, observation: Tensor) -> Tensor:
        """`(B, input_dim)`, also of `(B,)`; without layers real numbers keep their type."""
        rows = observation.flatten(1) if observation.dim() > 1 else observation[:, None]
        return rows if not self.ends and rows.is_floating_point() else rows.to(dtype_of(self))

    def maps(self, observation: Tensor) -> list[Tensor]:
        """The output `(B, width)` of each hidden layer; the last are the features."""
        x = self._rows(observation)
        return outputs_at(self.ends, self.layers, x) if self.ends else [x]
