"""Networks of images that fit an observation space: how the images lie in it, and how large they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import nn

from agentlib.backbones.base import Backbone
from agentlib.backbones.cnn import CNN, NatureCNN
from agentlib.backbones.combine import Chain
from agentlib.backbones.mlp import MLP
from agentlib.backbones.resnet import ResNet
from agentlib.backbones.vision_transformer import Swin, ViT

SMALL_IMAGE = 64
"""Images with a side up to this get the small ResNet, larger ones ResNet-18."""
Build = Callable[..., nn.Module]
"""(observation space, net_arch, normalize) -> network; "auto" and "mlp" also take how their layers are."""


def is_picture(space: spaces.Space[Any]) -> bool:
    """Whether a space holds pictures `(C, H, W)` of numbers between 0 and 1, of at least 4x4."""
    if not (isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating) and len(space.shape) == 3):
        return False
    return min(space.shape[1:]) >= 4 and bool((space.low == 0.0).all() and (space.high == 1.0).all())


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


def layout_of(shape: tuple[int, ...]) -> tuple[tuple[int, ...], bool]:
    """The shape with an axis for the channels, and whether they are the last."""
    return (1, *shape) if len(shape) == 2 else shape, _channels_last(shape)


def small_cnn(shape: tuple[int, ...]) -> CNN:
    """Convolutions down to maps of at most 8x8, and a layer of 64."""
    layers: tuple[int | str, ...] = (16, 32, "max", 32)
    while min(shape[1:]) >> layers.count("max") > 8:
        layers = (*layers, "max", 32)
    return CNN(shape, layers, feature_dim=64, norm="none")


def _on_images(name: str, make: Callable[[tuple[int, ...], bool], Backbone]) -> Build:
    """A network of images, and layers of `net_arch` on top if there are any."""

    def build(space: spaces.Space[Any], net_arch: Sequence[int] | None, normalize: bool) -> nn.Module:
        if isinstance(space, spaces.Dict | spaces.Tuple):
            raise ValueError(f"{name} takes images, not {space}; use backbone='auto'")
        if not isinstance(space, spaces.Box) or not 2 <= len(space.shape) <= 4:
            raise ValueError(f"{name} takes images, not {space}")
        network = make(*layout_of(space.shape))
        return Chain([network, MLP(network.feature_dim, net_arch)]) if net_arch else network

    return build


def _resnet(shape: tuple[int, ...], channels_last: bool) -> ResNet:
    name = "resnet_small" if min(_sides(shape)) <= SMALL_IMAGE else "resnet18"
    return ResNet.named(name, shape, channels_last=channels_last)


def _patch(shape: tuple[int, ...]) -> int:
    """The smallest side, from 2 on, of patches that tile an image and are not more than a hundred."""
    height, width = _sides(shape)
    common = math.gcd(height, width)
    found = [side for side in range(2, common + 1) if common % side == 0 and height * width <= 100 * side**2]
    if not found or found[0] == common == min(height, width):
        raise ValueError(
            f"no patches from 2x2 on tile an image of {height}x{width} in a useful way: pad or crop it to sides with a "
            "common divisor"
        )
    return found[0]


def _swin(shape: tuple[int, ...], channels_last: bool) -> Swin:
    """One stage, or two where the patches can be merged two by two, with the largest windows up to 7x7 that tile."""
    patch = _patch(shape)
    rows, columns = (side // patch for side in _sides(shape))
    stages = 2 if rows % 2 == columns % 2 == 0 else 1
    common = math.gcd(rows, columns) // stages
    window = next(side for side in range(7, 0, -1) if common % side == 0)
    return Swin(
        shape, patch, 48, depths=(2,) * stages, heads=(3, 6)[:stages], window=window, channels_last=channels_last
    )


nature_cnn = _on_images("nature_cnn", lambda shape, last: NatureCNN(shape, feature_dim=512, channels_last=last))
cnn = _on_images("cnn", lambda shape, last: CNN(shape, channels_last=last))
resnet = _on_images("resnet", _resnet)
vit = _on_images("vit", lambda shape, last: ViT(shape, _patch(shape), channels_last=last))
swin = _on_images("swin", _swin)
