"""Recurrent networks: RNN (Elman 1990), LSTM (Hochreiter & Schmidhuber 1997), GRU (Cho et al. 2014).

    RNN     h' = tanh(W x + b + U h + d)
    LSTM    c' = f c + i g,   h' = o tanh(c')           i, f, o = sigmoid(W x + b + U h + d), g = tanh(the same)
    GRU     h' = (1 - z) n + z h,   n = tanh(W x + b + r (U h + d))        r, z = sigmoid(W x + b + U h + d)

They are written out in plain operations, step by step. torch's fused kernels know neither resets within a sequence nor
gradients of gradients, and do not compile; compiled, the plain steps are the quicker ones. Names, shapes and order of
the parameters are torch's, so `ours.load_state_dict(nn.LSTM(...).state_dict())` works, and the numbers are equal.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.backbones.base import SequenceBackbone, State
from agentlib.core.names import close_matches

Cell = tuple[Tensor, ...]
"""The state of one layer in one direction: h `(B, n)`, and c `(B, n)` for the LSTM."""


class Recurrent(SequenceBackbone):
    """The common part of RNN, LSTM and GRU: layers, directions, resets and padding around a cell.

    The state is h `(B, layers * directions, hidden_dim)`, or a pair (h, c) of them for the LSTM.

    Args:
        input_dim: numbers in one step of the input.
        hidden_dim: width of the state, in each direction.
        layers: one on top of the other.
        bidirectional: a second set of weights reads backwards; the features of both stand side by side. Such a network
            reads whole sequences: it cannot act step by step.
    """

    gates: int
    """Blocks of `hidden_dim` rows in the weights."""
    parts = 1
    """Tensors in the state."""

    def __init__(self, input_dim: int, hidden_dim: int = 64, layers: int = 1, bidirectional: bool = False) -> None:
        super().__init__()
        if min(input_dim, hidden_dim, layers) < 1:
            raise ValueError(f"input_dim, hidden_dim and layers are at least 1, not {(input_dim, hidden_dim, layers)}")
        self.input_dim, self.hidden_dim, self.layers = int(input_dim), int(hidden_dim), int(layers)
        self.bidirectional = bool(bidirectional)
        self.directions = ("", "_reverse") if bidirectional else ("",)
        self.feature_dim = self.hidden_dim * len(self.directions)
        bound = 1.0 / math.sqrt(self.hidden_dim)
        for layer in range(self.layers):
            width = self.input_dim if layer == 0 else self.feature_dim
            rows = self.gates * self.hidden_dim
            for suffix in self.directions:
                for name, shape in (
                    ("weight_ih", (rows, width)),
                    ("weight_hh", (rows, self.hidden_dim)),
                    ("bias_ih", (rows,)),
                    ("bias_hh", (rows,)),
                ):
                    weights = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
                    self.register_parameter(f"{name}_l{layer}{suffix}", weights)

    @abstractmethod
    def cell(self, x: Tensor, state: Cell, weight: Tensor, bias: Tensor) -> Cell:
        """The next state.

        Args:
            x: `(B, gates * n)`, what the step's input adds to the gates: W x + b.
            state: each `(B, n)`.
            weight: U, `(gates * n, n)`.
            bias: d, `(gates * n,)`.
        """

    def initial_state(self, batch_size: int) -> State:
        weights: Tensor = self.weight_hh_l0  # type: ignore[assignment]
        zeros = weights.new_zeros(batch_size, self.layers * len(self.directions), self.hidden_dim)
        return (zeros, zeros.clone()) if self.parts == 2 else zeros

    def forward(  # type: ignore[override]
        self,
        observation: Tensor,
        state: State | None = None,
        episode_start: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Features `(B, T, feature_dim)` of `(B, T, input_dim)`, and the next state.

        With `lengths (B,)`, what lies behind the end of a sequence is padding: its features are 0, no state passes
        through it, and the backward direction begins at the sequence's true end.
        """
        outputs, state = self.read(observation, state, episode_start, lengths)
        return outputs[-1], state

    def maps(
        self, observation: Tensor, state: State | None = None, episode_start: Tensor | None = None
    ) -> list[Tensor]:
        """The features `(B, T, feature_dim)` of every layer, the lowest first."""
        return self.read(observation, state, episode_start)[0]

    def read(
        self,
        observation: Tensor,
        state: State | None = None,
        episode_start: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[list[Tensor], State]:
        """The features of every layer, and the next state."""
        if observation.dim() != 3 or observation.shape[-1] != self.input_dim:
            raise ValueError(f"{self.kind} reads (B, T, {self.input_dim}), not {tuple(observation.shape)}")
        features = observation.to(self.weight_ih_l0.dtype)  # type: ignore[arg-type]
        steps = features.shape[1]
        first = self.initial_state(features.shape[0]) if state is None else state
        first = first if self.parts == 2 else (first,)
        valid = None if lengths is None else torch.arange(steps, device=features.device) < lengths[:, None]  # (B, T)
        outputs, last = [], []
        for layer in range(self.layers):
            sides = []
            for number, suffix in enumerate(self.directions):
                row = layer * len(self.directions) + number
                begin = tuple(part[:, row].to(features.dtype) for part in first)  # each (B, n)
                side, end = self._scan(features, begin, f"_l{layer}{suffix}", episode_start, valid)
                sides.append(side)
                last.append(end)
            features = torch.cat(sides, -1)  # (B, T, feature_dim)
            outputs.append(features)
        later = tuple(torch.stack(parts, 1) for parts in zip(*last, strict=True))
        return outputs, later if self.parts == 2 else later[0]

    def _scan(
        self, x: Tensor, state: Cell, name: str, episode_start: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, Cell]:
        """One layer in one direction over a whole sequence: `(B, T, d)` to `(B, T, n)`, and the state at the end."""
        weights: list[Any] = [getattr(self, kind + name) for kind in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")]
        inputs = functional.linear(x, weights[0], weights[1]).unbind(1)  # T of (B, gates * n)
        backward = name.endswith("_reverse")
        outputs = []
        for t in reversed(range(len(inputs))) if backward else range(len(inputs)):
            # Read backwards, an episode ends where the one after it starts.
            border = t + 1 if backward else t
            if episode_start is not None and border < len(inputs):
                begins = episode_start[:, border, None]  # (B, 1)
                state = tuple(part.masked_fill(begins, 0.0) for part in state)
            later = self.cell(inputs[t], state, weights[2], weights[3])
            if valid is not None:
                inside = valid[:, t, None]  # (B, 1)
                later = tuple(torch.where(inside, *parts) for parts in zip(later, state, strict=True))
                outputs.append(later[0].masked_fill(~inside, 0.0))
            else:
                outputs.append(later[0])
            state = later
        return torch.stack(outputs[::-1] if backward else outputs, 1), state


class RNN(Recurrent):
    """The plain recurrent network; the arguments are `Recurrent`'s, and:

    Args:
        nonlinearity: "tanh", "relu", or "identity" for a linear system.
    """

    kind, gates = "rnn", 1
    NONLINEARITIES: ClassVar = {"tanh": torch.tanh, "relu": torch.relu, "identity": torch.clone}

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 64,
        layers: int = 1,
        bidirectional: bool = False,
        nonlinearity: str = "tanh",
    ) -> None:
        super().__init__(input_dim, hidden_dim, layers, bidirectional)
        if nonlinearity not in self.NONLINEARITIES:
            raise ValueError(f"unknown nonlinearity {nonlinearity!r}{close_matches(nonlinearity, self.NONLINEARITIES)}")
        self.nonlinearity = nonlinearity

    def cell(self, x: Tensor, state: Cell, weight: Tensor, bias: Tensor) -> Cell:
        return (self.NONLINEARITIES[self.nonlinearity](x + functional.linear(state[0], weight, bias)),)


class LSTM(Recurrent):
    """Long short-term memory; the arguments are `Recurrent`'s, and:

    Args:
        forget_bias: added to the forget gate's bias at the start, so that memory is kept until the network learns
            otherwise (Gers et al. 2000; Jozefowicz et al. 2015).
    """

    kind, gates, parts = "lstm", 4, 2

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 64,
        layers: int = 1,
        bidirectional: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(input_dim, hidden_dim, layers, bidirectional)
        self.forget_bias = float(forget_bias)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith("bias_ih"):
                    parameter[self.hidden_dim : 2 * self.hidden_dim] += self.forget_bias

    def cell(self, x: Tensor, state: Cell, weight: Tensor, bias: Tensor) -> Cell:
        h, c = state
        i, f, g, o = (x + functional.linear(h, weight, bias)).chunk(4, -1)  # each (B, n)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class GRU(Recurrent):
    """The gated recurrent unit, in torch's form: the reset gate acts after the recurrent product."""

    kind, gates = "gru", 3

    def cell(self, x: Tensor, state: Cell, weight: Tensor, bias: Tensor) -> Cell:
        (h,) = state
        x_r, x_z, x_n = x.chunk(3, -1)  # each (B, n)
        h_r, h_z, h_n = functional.linear(h, weight, bias).chunk(3, -1)
        r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
        n = (x_n + r * h_n).tanh()
        return ((1.0 - z) * n + z * h,)
