"""Random changes of images that leave their meaning alone, independent for each image.

Each class here, in `colours.py`, `mixing.py` and `auto_augment.py` is a `Transform` for `agentlib.data.Batches`: it
takes images `(B, C, H, W)` and gives images of the same shape, on their device, drawing from torch's default generator.
Of those here, shifting and flipping keep any dtype; the others take bytes, too, and give floating-point numbers, which
light and noise do not cut to any range. Shapes are fixed and no Python branch looks at a value, so that a whole update
compiles. The functions above them do the same by given amounts.

What a change leaves alone depends on the data: a flipped 6 is no 6 any more, and a shifted frame of a game is another
state if the shift is as large as a step.

| change | invariance that it assumes |
|---|---|
| `RandomShift` | position, up to some pixels (with "edge": DrQ, Kostrikov et al. 2021) |
| `RandomRotation` | orientation, up to some degrees |
| `RandomFlip` | left and right |
| `RandomCrop` | position and size (Szegedy et al. 2015) |
| `RandomLight`, `RandomNoise` | brightness, contrast; noise of the camera |
| `RandomFrame` | time, within a window of frames |
| `RandomColour`, `RandomGrey` | hue and saturation; any colour |
| `RandomCutout` | a part that is hidden |
| `AutoAugment`, `AugMix`, `PixMix` | most of these, and levels of grey |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Padding = Literal["edge", "zero"]
"""The values beyond the border of an image: its outermost pixels again, or zeros."""


def shift(images: Tensor, rows: Tensor, columns: Tensor, padding: Padding = "edge") -> Tensor:
    """Images `(B, C, H, W)` moved down and to the right by whole pixels `(B,)`; any dtype."""
    height, width = images.shape[-2:]
    down = torch.arange(height, device=images.device) - rows[:, None]  # (B, H): where each row comes from
    right = torch.arange(width, device=images.device) - columns[:, None]  # (B, W)
    example = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.movedim(1, -1)[
        example, down.clamp(0, height - 1)[:, :, None], right.clamp(0, width - 1)[:, None, :]
    ].movedim(-1, 1)  # (B, C, H, W)
    if padding == "edge":
        return moved
    inside = ((down >= 0) & (down < height))[:, :, None] & ((right >= 0) & (right < width))[:, None, :]  # (B, H, W)
    return moved * inside[:, None]


def nudged(images: Tensor) -> Tensor:
    """Images as they are, then all moved by one pixel down, up, right and left over zeros: `(5 * B, C, H, W)`."""
    zero = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    moves = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
    return torch.cat([shift(images, zero + down, zero + right, "zero") for down, right in moves])


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Images `(B, C, H, W)`, left and right exchanged where `chosen` `(B,)`; any dtype."""
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def rotate(images: Tensor, degrees: Tensor, padding: Padding = "zero") -> Tensor:
    """Images `(B, C, H, W)` turned counter-clockwise around their centre by angles `(B,)`, bilinear."""
    height, width = images.shape[-2:]
    angle = degrees * (math.pi / 180.0)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # From places in the new image to places in the old, both in half sides from the centre.
    first = torch.stack([cosine, -sine * (height / width), zero], 1)  # (B, 3)
    second = torch.stack([sine * (width / height), cosine, zero], 1)
    return resampled(images, torch.stack([first, second], 1), padding)


def crop(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """The boxes of images `(B, C, H, W)`, stretched to whole images, bilinear.

    Args:
        images: uint8, or floating-point.
        top: `(B,)`, like the others a share of the image's side: 0 is its upper edge.
        left: `(B,)`.
        height: `(B,)`, 1 for the whole side.
        width: `(B,)`.
    """
    zero = torch.zeros_like(top)
    first = torch.stack([width, zero, 2.0 * left + width - 1.0], 1)  # (B, 3)
    second = torch.stack([zero, height, 2.0 * top + height - 1.0], 1)
    return resampled(images, torch.stack([first, second], 1), "edge")


def resampled(images: Tensor, maps: Tensor, padding: Padding) -> Tensor:
    """Images seen through affine maps `(B, 2, 3)` from new places to old."""
    x = as_float(images)
    grid = functional.affine_grid(maps.to(x), list(x.shape), align_corners=False)
    mode = "border" if padding == "edge" else "zeros"
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode=mode, align_corners=False)


def as_float(images: Tensor) -> Tensor:
    """Images as floating-point numbers; bytes become numbers between 0 and 1."""
    return images if images.is_floating_point() else images.float() / 255.0


def _between(low: float, high: float, images: Tensor) -> Tensor:
    """A number for each image, `(B,)`."""
    return low + (high - low) * torch.rand(len(images), dtype=torch.float32, device=images.device)


@dataclass(frozen=True)
class RandomShift:
    """Moves each image by up to `pixels` whole pixels, each way."""

    pixels: int
    padding: Padding = "edge"

    def __call__(self, images: Tensor) -> Tensor:
        by = torch.randint(-self.pixels, self.pixels + 1, (2, len(images)), device=images.device)
        return shift(images, by[0], by[1], self.padding)


@dataclass(frozen=True)
class RandomRotation:
    """Turns each image by up to `degrees`, either way."""

    degrees: float
    padding: Padding = "zero"

    def __call__(self, images: Tensor) -> Tensor:
        return rotate(images, _between(-self.degrees, self.degrees, images), self.padding)


@dataclass(frozen=True)
class RandomFlip:
    """Exchanges left and right of an image, with this probability."""

    probability: float = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        return flip(images, torch.rand(len(images), dtype=torch.float32, device=images.device) < self.probability)


@dataclass(frozen=True)
class RandomCrop:
    """Takes a box of each image, and stretches it to the image's size."""

    smallest: float = 0.5
    """The least share of the image's area that is left."""
    ratio: float = 4 / 3
    """Largest ratio of width to height, or of height to width, relative to the image."""
    largest: float = 1.0
    """The largest share of the area."""

    def __call__(self, images: Tensor) -> Tensor:
        area = _between(self.smallest, self.largest, images)
        root = (0.5 * _between(-math.log(self.ratio), math.log(self.ratio), images)).exp()  # of width / height
        height, width = (area.sqrt() / root).clamp(max=1.0), (area.sqrt() * root).clamp(max=1.0)
        top, left = (1.0 - height) * _between(0.0, 1.0, images), (1.0 - width) * _between(0.0, 1.0, images)
        return crop(images, top, left, height, width)


@dataclass(frozen=True)
class RandomLight:
    """x' = mean + contrast (x - mean) + brightness, each image with numbers of its own."""

    brightness: float = 0.2
    """Largest number that is added or subtracted."""
    contrast: float = 0.2
    """Distances from the mean grow or shrink by up to this share."""

    def __call__(self, images: Tensor) -> Tensor:
        x = as_float(images)
        mean = x.mean((1, 2, 3), keepdim=True)
        contrast = _between(1.0 - self.contrast, 1.0 + self.contrast, x)[:, None, None, None]
        brightness = _between(-self.brightness, self.brightness, x)[:, None, None, None]
        return mean + contrast * (x - mean) + brightness


@dataclass(frozen=True)
class RandomNoise:
    """Adds Gaussian noise of this standard deviation to each pixel."""

    deviation: float

    def __call__(self, images: Tensor) -> Tensor:
        x = as_float(images)
        return x + self.deviation * torch.randn_like(x)


class RandomFrame:
    """Takes one of the frames of each window, such as `frames(env, n, window=5)` has them: time as the change.

    Views of a window are what an agent saw within a few steps. What such views share is what stays, or what goes on
    predictably, and not how things look (van den Oord et al. 2018, arXiv:1807.03748; Sermanet et al. 2018).
    """

    def __call__(self, windows: Tensor) -> Tensor:
        """`(B, T, ...)`, of any dtype, to `(B, ...)`."""
        chosen = torch.randint(windows.shape[1], (len(windows),), device=windows.device)
        return windows[torch.arange(len(windows), device=windows.device), chosen]


Change = Callable[[Tensor], Tensor]
"""Takes and gives images `(B, C, H, W)`."""


class Augmentation(nn.Module):
    """Changes one after the other: `Augmentation(RandomShift(1), RandomNoise(0.1))`."""

    def __init__(self, *changes: Change) -> None:
        super().__init__()
        self.changes = changes
        self.modules_of = nn.ModuleList([change for change in changes if isinstance(change, nn.Module)])

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)`, bytes or floating-point, to floating-point.

        Raises:
            ValueError: the examples are no images.
        """
        if images.dim() != 4:
            raise ValueError(f"images are a batch (B, C, H, W), not {tuple(images.shape)}: leave out the augmentation")
        x = as_float(images)
        for change in self.changes:
            x = change(x)
        return x
