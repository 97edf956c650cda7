"""First values of weights, by name.

Var[(W x)_i] = d Var[w] E[x^2], for d inputs: with Var[w] = 1/d a linear layer keeps the scale of what passes through.

| name | weights | keeps |
|---|---|---|
| "torch" | as torch made them: uniform, variance 1/(3d) | nothing |
| "1/d" | normal, variance 1/d (LeCun et al. 1998) | the scale through linear layers; nearly through tanh |
| "he" | normal, variance 2/d (He et al. 2015) | the scale through ReLU, which drops half of E[x^2] |
| "glorot" | uniform, variance 2/(d_in + d_out) (Glorot & Bengio 2010) | a mean between values and gradients |
| "orthogonal" | rows or columns orthonormal (Saxe et al. 2014) | each vector's length, where square |
| "truncated_normal" | normal, deviation 0.02, cut at two deviations (BERT, ViT) | nothing: wants normalization |

d is the number of inputs of one output: for a convolution, channels x kernel height x kernel width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.utils import parametrize

from agentlib.core.names import look_up

Fill = Callable[[Tensor, float, float], object]
"""(weight, number of inputs d, gain) -> fills the weight."""


def _normal(variance: float) -> Fill:
    return lambda weight, inputs, gain: init.normal_(weight, std=gain * math.sqrt(variance / inputs))


def _truncated_normal(weight: Tensor, inputs: float, gain: float) -> None:
    deviation = 0.02 * gain
    init.trunc_normal_(weight, std=deviation, a=-2.0 * deviation, b=2.0 * deviation)


INITIALIZATIONS: dict[str, Fill | None] = {
    "torch": None,
    "1/d": _normal(1.0),
    "he": _normal(2.0),
    "glorot": lambda weight, inputs, gain: init.xavier_uniform_(weight, gain),
    "orthogonal": lambda weight, inputs, gain: init.orthogonal_(weight, gain),
    "truncated_normal": _truncated_normal,
}


def _inputs(layer: nn.Module) -> float:
    """How many numbers of the input go into one of the output."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    assert isinstance(layer, nn.modules.conv._ConvNd)
    inputs = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return inputs / math.prod(layer.stride) if layer.transposed else inputs


@torch.no_grad()
def initialize(module: nn.Module, name: str, gain: float = 1.0) -> None:
    """Gives fresh weights to all linear layers and convolutions of a module, and sets their biases to zero.

    Args:
        module: a layer, or a whole network.
        name: see the table of this file; "torch" leaves everything as it is.
        gain: the weights are multiplied by it.

    Raises:
        ValueError: unknown name.
    """
    fill = look_up("initialization", name, INITIALIZATIONS)
    if fill is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            fresh = torch.empty_like(layer.weight)
            fill(fresh, _inputs(layer), gain)
            _set_weight(layer, fresh)
            if layer.bias is not None:
                layer.bias.zero_()


@torch.no_grad()
def scale_branches(last_layers: Sequence[nn.Module]) -> None:
    """Scales the last layer of each residual branch by 1 / sqrt(number of branches).

    A sum of N branches then starts with the scale of one, whatever the depth (Radford et al. 2019): N blocks of a
    transformer have 2 N branches, so 1 / sqrt(2 N). What ends in a normalization is scaled by that one's gain.
    """
    for layer in last_layers:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        _set_weight(layer, weight / math.sqrt(len(last_layers)))


def _set_weight(layer: nn.Module, value: Tensor) -> None:
    if parametrize.is_parametrized(layer, "weight"):
        layer.weight = value  # computed from other tensors, which this assignment sets
    else:
        assert isinstance(layer.weight, Tensor)
        layer.weight.copy_(value)
