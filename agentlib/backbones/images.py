"""How images lie in memory, and how small they may be."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agentlib.backbones.base import Backbone

MAX_COLOURS = 4
"""An axis up to this long may be the channels of an image that lies the other way round."""


@dataclass(frozen=True)
class ImageLayout:
    """Takes batches of images in one layout, and gives `(B, C, H, W)`.

    uint8 images are divided by 255; floating-point images are taken as they are.
    """

    shape: tuple[int, ...]
    """Of one image: `(C, H, W)`, or with `channels_last` `(H, W, C)`, or `(S, H, W, C)` for S stacked colour frames."""
    channels_last: bool = False
    """The last axis holds the channels."""

    def __post_init__(self) -> None:
        if len(self.shape) not in ((3, 4) if self.channels_last else (3,)):
            raise ValueError(f"an image has shape (C, H, W), or (H, W, C) with channels_last=True, not {self.shape}")
        if min(self.shape) < 1:
            raise ValueError(f"an image of shape {self.shape} holds nothing")
        first, *_, last = self.shape
        if not self.channels_last and last <= MAX_COLOURS < min(self.shape[:-1]):
            raise ValueError(
                f"the shape {self.shape} looks like (H, W, C), and (C, H, W) is meant: give channels_last=True, or "
                "turn the images, image.transpose(2, 0, 1)"
            )
        if self.channels_last and len(self.shape) == 3 and first <= MAX_COLOURS < min(self.shape[1:]):
            raise ValueError(
                f"the shape {self.shape} looks like (C, H, W), and channels_last=True means (H, W, C): leave it away, "
                "or turn the images, image.transpose(1, 2, 0)"
            )

    @property
    def channels(self) -> int:
        """Channels in all, those of stacked frames together."""
        return math.prod((self.shape[-1], *self.shape[:-3])) if self.channels_last else self.shape[0]

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return (self.shape[-3], self.shape[-2]) if self.channels_last else (self.shape[-2], self.shape[-1])

    def __call__(self, observation: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Images `(B, C, H, W)` in a floating-point type; without one, in their own and not divided.

        Flat images `(B, C * H * W)`, and those without an axis for their one channel, are taken too.

        Raises:
            ValueError: images of another shape; if they are turned, the message says how to turn them.
        """
        self._check(tuple(observation.shape))
        image = observation.reshape(-1, *self.shape)
        if self.channels == 1:  # turned, an axis of one would have a stride that no view of other types takes
            image = image.reshape(-1, 1, *self.sides)
        elif self.channels_last:
            image = image.movedim(-1, -3)  # (B, C, H, W) or (B, S, C, H, W)
            image = image.flatten(1, -3)  # (B, S * C, H, W)
        return image if dtype is None else scaled(image, dtype)

    def _check(self, found: tuple[int, ...]) -> None:
        plain = tuple(self.sides) if self.channels == 1 else self.shape
        if found[-len(self.shape) :] == self.shape or found[-len(plain) :] == plain:
            return
        if len(found) == 2 and found[1] == math.prod(self.shape):
            return
        order, turned = ("(H, W, C)", "(C, H, W)") if self.channels_last else ("(C, H, W)", "(H, W, C)")
        message = f"this network takes images {order} of shape {self.shape}, not a batch of shape {found}"
        if len(self.shape) == 3:
            axes, move = ((2, 0, 1), (-3, -1)) if self.channels_last else ((1, 2, 0), (-1, -3))
            if found[-3:] == tuple(self.shape[axis] for axis in axes):
                message += f": those are {turned}; turn them, images.movedim{move}"
        raise ValueError(message)


def scaled(image: Tensor, dtype: torch.dtype) -> Tensor:
    """An image in a floating-point type; uint8 is divided by 255."""
    return image.to(dtype) if image.is_floating_point() else image.to(dtype) / 255.0


def tiling(height: int, width: int) -> list[int]:
    """Sides of squares that tile an image, for messages: those up to 1024."""
    return [size for size in range(1, min(height, width, 1024) + 1) if height % size == width % size == 0]


class ImageBackbone(Backbone):
    """A network of images that all have one layout."""

    def __init__(self, shape: Sequence[int], channels_last: bool) -> None:
        super().__init__()
        self.layout = ImageLayout(tuple(shape), bool(channels_last))
        self.shape, self.channels_last = self.layout.shape, self.layout.channels_last


Window = tuple[int, int, int]
"""Kernel, stride and padding of a convolution or a pooling."""


def convolved_size(size: int, kernel: int, stride: int, padding: int = 0) -> int:
    """Length of one side after a convolution or pooling: floor((size + 2 padding - kernel) / stride) + 1."""
    return (size + 2 * padding - kernel) // stride + 1


def convolved_sides(layout: ImageLayout, windows: Sequence[Window]) -> tuple[int, int]:
    """Height and width after layers one on top of the other.

    Raises:
        ValueError: a side is smaller than a kernel, or would be thinned out where there is a single pixel left; the
            message has the smallest side that works.
    """
    height, width = (_convolved(side, windows) for side in layout.sides)
    if height is None or width is None:
        smallest = 1 + bisect.bisect_left(range(1, 2**20), True, key=lambda side: _convolved(side, windows) is not None)
        raise ValueError(f"an image of shape {layout.shape} is too small: both sides must be at least {smallest}")
    return height, width


def _convolved(size: int, windows: Sequence[Window]) -> int | None:
    for kernel, stride, padding in windows:
        if size + 2 * padding < kernel or (size == 1 and stride > 1):
            return None
        size = convolved_size(size, kernel, stride, padding)
    return size
