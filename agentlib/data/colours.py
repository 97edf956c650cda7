"""Changes of the colours of images by given amounts, and at random.

Images are `(B, C, H, W)`, floating-point numbers between 0 and 1, and so are those that come back; amounts are `(B,)`.
Levels of posterizing and histograms are those of 8 bits, x * 255 rounded down, as Pillow has them. Grey is
0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); of images that do not have three channels it is the mean of the channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 256
"""Of 8 bits."""


def grey(images: Tensor) -> Tensor:
    """The brightness of each pixel, `(B, 1, H, W)`."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images[:, :1], images[:, 1:2], images[:, 2:]
    return 0.299 * red + 0.587 * green + 0.114 * blue


def blend(images: Tensor, others: Tensor, amount: Tensor) -> Tensor:
    """others + amount (images - others), clipped: 0 gives the others, 1 the images, more goes beyond them."""
    return (others + amount[:, None, None, None] * (images - others)).clamp(0.0, 1.0)


def blurred(images: Tensor) -> Tensor:
    """Each pixel as the mean of its neighbours and 5 times itself; those at the border as they are."""
    channels, height, width = images.shape[1:]
    if min(height, width) < 3:
        return images
    kernel = torch.ones(channels, 1, 3, 3, dtype=images.dtype, device=images.device)
    smooth = (functional.conv2d(images, kernel, groups=channels) + 4.0 * images[:, :, 1:-1, 1:-1]) / 13.0
    rows = torch.cat([images[:, :, :1, 1:-1], smooth, images[:, :, -1:, 1:-1]], 2)
    return torch.cat([images[:, :, :, :1], rows, images[:, :, :, -1:]], 3)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """The highest of the 8 bits of each number; `bits` between 1 and 8."""
    step = torch.exp2(8.0 - bits)[:, None, None, None]
    return ((images * 255.0).floor() / step).floor() * step / 255.0


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Numbers from the threshold on are inverted."""
    return torch.where(images < threshold[:, None, None, None], images, 1.0 - images)


def auto_contrast(images: Tensor) -> Tensor:
    """Each channel stretched to reach from 0 to 1; a channel of one value stays as it is."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 0.0, (images - low) / torch.where(span > 0.0, span, 1.0), images)


def equalize(images: Tensor) -> Tensor:
    """Each channel with a flat histogram, as Pillow makes it; those with too few pixels or levels stay as they are."""
    shape, flat = images.shape, images.flatten(0, 1).flatten(1)  # (B * C, pixels)
    level = (flat * 255.0).long()
    counts = torch.zeros(len(flat), LEVELS, dtype=flat.dtype, device=flat.device)
    counts = counts.scatter_add(1, level, torch.ones_like(flat))
    last = counts.gather(1, level.amax(1, keepdim=True))
    step = ((flat.shape[1] - last) / 255.0).floor()  # (B * C, 1)
    below = counts.cumsum(1) - counts
    table = ((below + (step / 2.0).floor()) / step.clamp_min(1.0)).floor().clamp_max(255.0)
    return torch.where(step > 0.0, table.gather(1, level) / 255.0, flat).view(shape)


def recolour(images: Tensor, turns: Tensor, factor: Tensor) -> Tensor:
    """Hues moved around their circle by shares of a whole turn, and saturations times a factor, clipped.

    Raises:
        ValueError: the images do not have three channels.
    """
    hue, saturation, value = _hue_saturation_value(images)
    return _from_hue(hue + turns[:, None, None], (saturation * factor[:, None, None]).clamp(0.0, 1.0), value)


def _hue_saturation_value(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, as a share of a turn, saturation and value, each `(B, H, W)` (Smith 1978)."""
    if images.shape[1] != 3:
        raise ValueError(f"hue and saturation are of images of three channels, these have {images.shape[1]}")
    red, green, blue = images.unbind(1)
    value, span = images.amax(1), images.amax(1) - images.amin(1)
    width = torch.where(span > 0.0, span, 1.0)
    sixth = torch.where(
        value == red,
        (green - blue) / width,
        torch.where(value == green, (blue - red) / width + 2.0, (red - green) / width + 4.0),
    )
    return sixth / 6.0, span / torch.where(value > 0.0, value, 1.0), value


def _from_hue(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Images `(B, 3, H, W)`: of red, green and blue, how far the hue is from each gives its share."""
    sixth = 6.0 * hue
    channels = []
    for start in (5.0, 3.0, 1.0):
        place = torch.remainder(start + sixth, 6.0)
        channels.append(value - value * saturation * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0))
    return torch.stack(channels, 1)


@dataclass(frozen=True)
class RandomColour:
    """Turns the hue of each image, and scales its saturation."""

    hue: float = 0.05
    """Largest turn, either way, as a share of the circle of hues: 0.5 reaches every hue."""
    saturation: float = 0.2
    """Saturations grow or shrink by up to this share."""

    def __call__(self, images: Tensor) -> Tensor:
        turns, factor = (2.0 * torch.rand(2, len(images), dtype=torch.float32, device=images.device) - 1.0).unbind()
        return recolour(images.clamp(0.0, 1.0), self.hue * turns, 1.0 + self.saturation * factor)


@dataclass(frozen=True)
class RandomGrey:
    """Takes the colours away, with this probability."""

    probability: float = 0.2

    def __call__(self, images: Tensor) -> Tensor:
        chosen = torch.rand(len(images), dtype=torch.float32, device=images.device) < self.probability
        return torch.where(chosen[:, None, None, None], grey(images), images)
