"""The parts of the layers of a network, by name: activations, first values of weights, normalizations.

First values of weights:

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

Normalizations of activations, and of weights:

| name | what is brought to mean 0 and variance 1 | reference |
|---|---|---|
| "layer" | vectors: a sample's features. Maps: a sample's C x H x W numbers; one gain per channel | Ba et al. 2016 |
| "channel" | maps: the C numbers at each position, what ViT, Swin and ConvNeXt call LayerNorm | Ba et al. 2016 |
| "group" | each group of at least 8 channels of one sample, over H and W too | Wu & He 2018 |
| "rms" | as "channel" and "layer", without taking off the mean, to mean square 1 | Zhang & Sennrich 2019 |
| "batch" | each channel over the samples of a batch; in eval mode by running statistics | Ioffe & Szegedy 2015 |
| "spectral" | not the activations: the weight is divided by its largest singular value | Miyato et al. 2018 |
| "weight" | not the activations: the weight is a direction times a length | Salimans & Kingma 2016 |
| "none" | nothing | |

"batch" mixes the samples of a batch. It does not go with gradients per sample (`torch.func.vmap` says so), and harms
where samples must not know of each other: gradient penalties, contrastive losses, target networks. "spectral" moves
its estimate of the singular vectors in each forward pass of training mode, so that two passes differ. Nothing here
uses either by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from agentlib.core.names import look_up


class GELUTanh(nn.GELU):
    """GELU by a hyperbolic tangent, as GPT-2 has it: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""

    def __init__(self) -> None:
        super().__init__("tanh")


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "gelu_tanh": GELUTanh,
    "silu": nn.SiLU,
}
"""ELU is a (e^x - 1) below zero; GELU is the exact one, by the error function; leaky ReLU has the slope 0.01."""


def dtype_of(network: nn.Module) -> torch.dtype:
    """The floating-point type that a network computes in: that of its first parameter, float32 without any."""
    parameter = next(network.parameters(), None)
    return torch.float32 if parameter is None else parameter.dtype


def outputs_at(ends: Sequence[int], modules: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The outputs of the modules at these places, when all modules run one after another."""
    found = []
    for i, module in enumerate(modules):
        x = module(x)
        if i in ends:
            found.append(x)
    return found


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


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalization of the channels at each position of maps `(B, C, H, W)`."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)  # (B, C, H, W)


class RMSNorm(nn.RMSNorm):
    """RMS normalization in the type of its gain, under autocast float32, as torch does it for layer normalization."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class ChannelRMSNorm(RMSNorm):
    """RMS normalization of the channels at each position of maps `(B, C, H, W)`."""

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)  # (B, C, H, W)


class WeightNorm(nn.Module):
    """A weight as length times direction, one length for each output: w = g v / ||v||.

    torch's own has no rule for vmap.
    """

    def forward(self, length: Tensor, direction: Tensor) -> Tensor:
        return direction * (length / _row_norms(direction))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Length and direction that make up this weight."""
        return _row_norms(weight), weight


def _row_norms(weight: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
    return norms  # (out, 1, ...)


def weight_norm(layer: nn.Module) -> nn.Module:
    """The layer, with its weight as length times direction."""
    return parametrize.register_parametrization(layer, "weight", WeightNorm())


CHANNELS_PER_GROUP, MAX_GROUPS, RMS_EPS = 8, 32, 1e-6


def groups_for(channels: int) -> int:
    """Groups of "group": as many as divide the channels, at most 32, with at least 8 channels in each (else one)."""
    most = min(MAX_GROUPS, channels // CHANNELS_PER_GROUP)
    return next((count for count in range(most, 1, -1) if channels % count == 0), 1)


OF_VECTORS: dict[str, Callable[[int], nn.Module]] = {
    "none": nn.Identity,
    "layer": nn.LayerNorm,
    "channel": nn.LayerNorm,
    "group": lambda width: nn.GroupNorm(groups_for(width), width),
    "rms": lambda width: RMSNorm(width, eps=RMS_EPS),
    "batch": nn.BatchNorm1d,
    "spectral": nn.Identity,
    "weight": nn.Identity,
}
OF_MAPS: dict[str, Callable[[int], nn.Module]] = {
    "none": nn.Identity,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "channel": ChannelLayerNorm,
    "group": lambda channels: nn.GroupNorm(groups_for(channels), channels),
    "rms": lambda channels: ChannelRMSNorm(channels, eps=RMS_EPS),
    "batch": nn.BatchNorm2d,
    "spectral": nn.Identity,
    "weight": nn.Identity,
}
OF_WEIGHTS: dict[str, Callable[[nn.Module], nn.Module]] = {"spectral": spectral_norm, "weight": weight_norm}
NORMS = tuple(OF_MAPS)
"""All names."""


def norm_named(name: str, width: int, maps: bool = False) -> nn.Module:
    """The layer that normalizes activations; for a normalization of weights, one that does nothing.

    Args:
        name: see the table of this file.
        width: features of a vector `(B, width)`, channels of a map `(B, width, H, W)`.
        maps: whether it is for maps. Tokens `(B, T, width)` are vectors, for "layer" and "rms".

    Raises:
        ValueError: unknown name.
    """
    return look_up("normalization", name, OF_MAPS if maps else OF_VECTORS)(width)


def normalized(layer: nn.Linear | nn.Conv2d, name: str) -> list[nn.Module]:
    """A linear layer or convolution with its normalization: modules to run one after another.

    Raises:
        ValueError: unknown name.
    """
    if name == "none":
        return [layer]
    if name in OF_WEIGHTS:
        return [OF_WEIGHTS[name](layer)]
    return [layer, norm_named(name, layer.weight.shape[0], maps=isinstance(layer, nn.Conv2d))]


def shifts(name: str) -> bool:
    """Whether a normalization adds a shift of its own, so that the layer before it needs no bias."""
    return name in ("layer", "channel", "group", "batch")
