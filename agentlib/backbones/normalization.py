"""Normalization by name: of activations, of weights, and of observations.

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

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from agentlib.backbones.base import Backbone
from agentlib.core.names import look_up


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
    "none": lambda width: nn.Identity(),
    "layer": nn.LayerNorm,
    "channel": nn.LayerNorm,
    "group": lambda width: nn.GroupNorm(groups_for(width), width),
    "rms": lambda width: RMSNorm(width, eps=RMS_EPS),
    "batch": nn.BatchNorm1d,
}
OF_MAPS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "channel": ChannelLayerNorm,
    "group": lambda channels: nn.GroupNorm(groups_for(channels), channels),
    "rms": lambda channels: ChannelRMSNorm(channels, eps=RMS_EPS),
    "batch": nn.BatchNorm2d,
}
OF_WEIGHTS: dict[str, Callable[[nn.Module], nn.Module]] = {"spectral": spectral_norm, "weight": weight_norm}
NORMS = (*OF_MAPS, *OF_WEIGHTS)
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
    if name in OF_WEIGHTS:
        return nn.Identity()
    if name not in NORMS:
        look_up("normalization", name, dict.fromkeys(NORMS))
    return (OF_MAPS if maps else OF_VECTORS)[name](width)


def reparametrized(layer: nn.Module, name: str) -> nn.Module:
    """A linear layer or convolution, with its weight normalized if that is what the name asks for."""
    return OF_WEIGHTS[name](layer) if name in OF_WEIGHTS else layer


def normalized(layer: nn.Linear | nn.Conv2d, name: str) -> list[nn.Module]:
    """A linear layer or convolution with its normalization: modules to run one after another.

    Raises:
        ValueError: unknown name.
    """
    norm = norm_named(name, layer.weight.shape[0], maps=isinstance(layer, nn.Conv2d))
    return [reparametrized(layer, name), *([] if isinstance(norm, nn.Identity) else [norm])]


def shifts(name: str) -> bool:
    """Whether a normalization adds a shift of its own, so that the layer before it needs no bias."""
    return name in ("layer", "channel", "group", "batch")


class RunningNorm(Backbone):
    """Standardizes each number of an observation by its running mean and variance (Welford 1962; Chan et al. 1979).

    The statistics are buffers: they are saved, loaded and copied with the network they belong to. `forward` never
    changes them; `observe` does. They stay in float64, whatever the network is converted to: float32 stops counting at
    2^24.

    Args:
        shape: of one observation.
        clip: normalized values are cut to `[-clip, clip]`.
    """

    kind = "running_norm"

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0) -> None:
        super().__init__()
        self.shape, self.clip = tuple(shape), float(clip)
        self.register_buffer("mean", torch.zeros(self.shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(self.shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.feature_dim = int(self.mean.numel())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def in_float64(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        super()._apply(in_float64, recurse)  # type: ignore[no-untyped-call]
        return self

    @torch.no_grad()
    def observe(self, observation: Tensor) -> None:
        """Takes observations `(B, *shape)` into the statistics, in place."""
        batch = observation.to(self.mean)
        total = self.count + len(batch)
        shift = batch.mean(0) - self.mean
        squares = self.variance * self.count + batch.var(0, correction=0) * len(batch)
        squares += shift.square() * (self.count * len(batch) / total)
        self.mean += shift * (len(batch) / total)
        self.variance.copy_(squares / total)
        self.count.copy_(total)

    def forward(self, observation: Tensor) -> Tensor:
        """`(B, *shape)` in any dtype to `(B, *shape)` float32."""
        scaled = (observation - self.mean) / (self.variance + 1e-8).sqrt()
        return scaled.clamp(-self.clip, self.clip).float()
