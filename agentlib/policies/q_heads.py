"""Heads for action values: dueling streams, distributions of returns, noisy weights, several branches of actions.

    Q(s, a) = V(s) + A(s, a) - mean_b A(s, b)                        dueling
    Q_d(s, a_d) = V(s) + A_d(s, a_d) - mean_b A_d(s, b)              dueling, with branches d of one action
    y = (w + sigma f(e_out) f(e_in)^T) x + b + sigma_b f(e_out)      noisy, with f(e) = sign(e) sqrt|e|, e ~ N(0, 1)

Dueling: Wang et al. 2016, arXiv:1511.06581; branches: Tavakoli et al. 2018, arXiv:1711.08946; noisy: Fortunato et al.
2018, arXiv:1706.10295.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Noise = tuple[Tensor, Tensor]
"""f(e_in) `(fan_in,)` and f(e_out) `(fan_out,)` of one layer."""


def scaled(noise: Tensor) -> Tensor:
    """f(e) = sign(e) sqrt|e|, elementwise."""
    return noise.sign() * noise.abs().sqrt()


class NoisyLinear(nn.Module):
    """A linear layer with other noise on its weights at each call, factorized and of a learned size.

    In train mode the noise comes from torch's default generator, one draw for the whole batch. In eval mode the weights
    are their means; `noisy_weights` puts noise of another generator in, for acting.

    Args:
        fan_in: numbers per input.
        fan_out: numbers per output.
        noise: initial standard deviation of a weight, in units of 1 / sqrt(fan_in).
    """

    def __init__(self, fan_in: int, fan_out: int, noise: float = 0.5) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(fan_out).uniform_(-bound, bound))
        self.weight_noise = nn.Parameter(torch.full((fan_out, fan_in), noise * bound))
        self.bias_noise = nn.Parameter(torch.full((fan_out,), noise * bound))
        self.fixed_noise: Noise | None = None

    def forward(self, x: Tensor) -> Tensor:
        """`(..., fan_out)` of inputs `(..., fan_in)`."""
        noise = self.fixed_noise
        if noise is None and self.training:
            fan_out, fan_in = self.weight.shape
            like: Any = {"dtype": self.weight.dtype, "device": x.device}
            noise = scaled(torch.randn(fan_in, **like)), scaled(torch.randn(fan_out, **like))
        if noise is None:
            return functional.linear(x, self.weight, self.bias)
        n_in, n_out = noise
        weight = self.weight + self.weight_noise * (n_out[:, None] * n_in)  # (fan_out, fan_in)
        return functional.linear(x, weight, self.bias + self.bias_noise * n_out)

    def draw(self, generator: np.random.Generator) -> Noise:
        """Noise from a generator of numpy's."""
        fan_out, fan_in = self.weight.shape
        draws = (generator.standard_normal(size, np.float32) for size in (fan_in, fan_out))
        n_in, n_out = (scaled(torch.from_numpy(draw)).to(self.weight.device) for draw in draws)
        return n_in, n_out


@contextmanager
def noisy_weights(network: nn.Module, generator: np.random.Generator) -> Iterator[None]:
    """Inside, the noisy layers of a network have the same noise at each call, from this generator."""
    layers = [layer for layer in network.modules() if isinstance(layer, NoisyLinear)]
    for layer in layers:
        layer.fixed_noise = layer.draw(generator)
    try:
        yield
    finally:
        for layer in layers:
            layer.fixed_noise = None


class QHead(nn.Module):
    """Values of all actions of all branches, side by side.

    Args:
        feature_dim: width of the features.
        branches: number of actions of each branch; one number for Discrete actions.
        n_atoms: numbers per action, for distributions of returns; None for one number without an axis of its own.
        hidden: widths of the layers that each branch, and the stream of the state's value, has for itself.
        dueling: one stream for the state's value and one per branch for the advantages.
        noise: initial noise of noisy layers; None for plain ones.
    """

    def __init__(
        self,
        feature_dim: int,
        branches: Sequence[int],
        n_atoms: int | None = None,
        hidden: Sequence[int] = (),
        dueling: bool = False,
        noise: float | None = None,
    ) -> None:
        super().__init__()
        self.n_atoms = n_atoms

        def stream(n_out: int) -> nn.Sequential:
            widths = (feature_dim, *hidden, n_out * (n_atoms or 1))
            layers = [
                nn.Linear(fan_in, fan_out) if noise is None else NoisyLinear(fan_in, fan_out, noise)
                for fan_in, fan_out in pairwise(widths)
            ]
            between = [module for layer in layers[:-1] for module in (layer, nn.ReLU())]
            return nn.Sequential(*between, layers[-1])

        self.advantages = nn.ModuleList(stream(size) for size in branches)
        self.value = stream(1) if dueling else None

    def forward(self, features: Tensor) -> Tensor:
        """`(..., A)`, or `(..., A, n_atoms)`, of features `(..., feature_dim)`; A is the sum of the branches."""
        atoms = self.n_atoms or 1
        branches = [stream(features).unflatten(-1, (-1, atoms)) for stream in self.advantages]  # (..., n, atoms)
        if self.value is not None:
            value = self.value(features).unflatten(-1, (1, atoms))  # (..., 1, atoms)
            branches = [value + advantage - advantage.mean(-2, keepdim=True) for advantage in branches]
        values = torch.cat(branches, -2) if len(branches) > 1 else branches[0]
        return values if self.n_atoms is not None else values.squeeze(-1)
