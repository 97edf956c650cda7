"""A backbone that fits an observation space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import nn

from agentlib.backbones import MLP, Backbone, Chain, NatureCNN, Nested, OneHot, RunningNorm
from agentlib.data.spaces import leaf_spaces

DEFAULT_WIDTHS = (64, 64)
BACKBONE_NAMES = {
    "auto": "by the observation space: a CNN for images, an encoder for each part of a Dict or Tuple, an MLP elsewhere",
    "mlp": "layers of net_arch, also on flattened images",
    "nature_cnn": "the convolutional network of Mnih et al. 2015, for images of at least 36x36",
}
"""What `backbone=` takes, besides a built module."""


def backbone_for(
    space: spaces.Space[Any],
    backbone: str | nn.Module = "auto",
    net_arch: Sequence[int] | None = None,
    normalize: bool = False,
) -> nn.Module:
    """A network from observations of `space` to features, as SB3's default policies build theirs.

    Args:
        space: the observation space, of one environment.
        backbone: "auto" (by the space), "mlp", "nature_cnn", or a built module, which is taken as it is.
        net_arch: widths of the hidden layers; by default 64 and 64, and none after a CNN alone.
        normalize: standardize floating-point parts of the observation by running statistics.

    Raises:
        ValueError: unknown name, or a backbone that cannot take such observations.
    """
    if isinstance(backbone, nn.Module):
        if not hasattr(backbone, "feature_dim"):
            raise ValueError(f"a backbone needs an attribute `feature_dim`; {type(backbone).__name__} has none")
        return backbone
    if backbone not in BACKBONE_NAMES:
        raise ValueError(f"unknown backbone {backbone!r}; known: {', '.join(BACKBONE_NAMES)}, or a module of your own")
    leaf_spaces(space)  # refuses what has no fixed shape
    if isinstance(space, spaces.Dict | spaces.Tuple):
        if backbone == "nature_cnn":
            raise ValueError(f"nature_cnn takes images, not {space}; use backbone='auto'")
        encoder = _encoder(space, backbone, normalize)
        return Chain([encoder, MLP(encoder.feature_dim, net_arch or DEFAULT_WIDTHS)])
    if backbone == "nature_cnn" or (backbone == "auto" and is_image(space)):
        if not isinstance(space, spaces.Box):
            raise ValueError(f"nature_cnn takes images, not {space}")
        cnn = image_encoder(space, feature_dim=512)
        return Chain([cnn, MLP(cnn.feature_dim, net_arch)]) if net_arch else cnn
    widths = net_arch if net_arch is not None else DEFAULT_WIDTHS
    encoder = _encoder(space, backbone, normalize)
    if isinstance(encoder, MLP):
        return MLP(encoder.input_dim, widths)
    return Chain([encoder, MLP(encoder.feature_dim, widths)])


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether a space holds uint8 images that the Nature CNN can take, grey ones and stacks among them."""
    if not (isinstance(space, spaces.Box) and space.dtype == np.uint8 and 2 <= len(space.shape) <= 4):
        return False
    return min(_sides(space.shape)) >= 36


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of images (H, W), (C, H, W), (H, W, C) or (S, H, W, C)."""
    if len(shape) == 2:
        return shape[0], shape[1]
    return (shape[-3], shape[-2]) if _channels_last(shape) else (shape[-2], shape[-1])


def _channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 or (len(shape) == 3 and shape[-1] < shape[0] and shape[-1] <= 4)


def image_encoder(space: spaces.Box, feature_dim: int) -> NatureCNN:
    """The Nature CNN for images of any of the usual layouts.

    Raises:
        ValueError: images that are too small, or no images.
    """
    shape = space.shape if len(space.shape) != 2 else (1, *space.shape)
    return NatureCNN(shape, feature_dim=feature_dim, channels_last=_channels_last(shape))


def _encoder(space: spaces.Space[Any], backbone: str, normalize: bool) -> Backbone:
    if isinstance(space, spaces.Dict):
        return Nested({key: _encoder(part, backbone, normalize) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return Nested([_encoder(part, backbone, normalize) for part in space.spaces])
    if isinstance(space, spaces.Discrete):
        return OneHot([int(space.n)], [int(space.start)])
    if isinstance(space, spaces.MultiDiscrete):
        return OneHot(space.nvec.ravel().tolist(), space.start.ravel().tolist())
    if isinstance(space, spaces.Box) and is_image(space) and backbone == "auto":
        return image_encoder(space, feature_dim=256)
    flat = MLP(int(np.prod(space.shape or ())), ())
    if normalize and isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return Chain([RunningNorm(space.shape), flat])
    return flat
