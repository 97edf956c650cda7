"""Fifteen corruptions of images in five severities, in the manner of ImageNet-C (Hendrycks and Dietterich 2019).

The kinds, and the amounts of noise, light and compression, are those of arXiv:1903.12261; lengths are shares of an
image's side, so that images of any size are corrupted alike. Nothing is downloaded: frost, fog and snow are generated,
frost from noise in place of photographs. So numbers are not those of the published data sets.

Images are `(N, C, H, W)`, between 0 and 1, or bytes; so are the results, as floating-point numbers between 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from agentlib.core.names import close_matches, shown
from agentlib.core.numbers import whole
from agentlib.data.augmentation import as_float

Corruption = Callable[[Tensor, Any, torch.Generator], Tensor]
"""Corrupts images by an amount."""

_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
"""JPEG's usual table for brightness (ITU-T T.81, table K.1); that for colours is 99 beyond its corner."""
_COLOUR = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))


def corrupt(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """Images `(N, C, H, W)`, corrupted; the same seed corrupts in the same way.

    Args:
        images: between 0 and 1, or bytes.
        kind: a name of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of noise, directions and patterns, which differ from image to image.

    Raises:
        ValueError: an unknown kind, another severity, or no images.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {shown(kind)}{close_matches(kind, CORRUPTIONS)}")
    if images.dim() != 4:
        raise ValueError(f"corruptions are of images (N, C, H, W), not of examples {tuple(images.shape[1:])}")
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity is a whole number from 1 to 5, not {severity!r}")
    function, amounts = CORRUPTIONS[kind]
    generator = torch.Generator(images.device).manual_seed(whole("seed", seed))
    parts = as_float(images).split(1_000)
    return torch.cat([function(part, amounts[severity - 1], generator).clamp(0.0, 1.0) for part in parts])


def _draw(images: Tensor, *shape: int, generator: torch.Generator, normal: bool = False) -> Tensor:
    draw = torch.randn if normal else torch.rand
    return draw(*shape, generator=generator, device=images.device, dtype=images.dtype)


def _gaussian_noise(x: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return x + deviation * _draw(x, *x.shape, generator=generator, normal=True)


def _shot_noise(x: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    return torch.poisson(x * photons, generator) / photons


def _impulse_noise(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    uniform = _draw(x, *x.shape, generator=generator)
    return torch.where(uniform < share, (uniform < 0.5 * share).to(x), x)


def _disk(radius: float, like: Tensor) -> Tensor:
    """A kernel that is even within a radius in pixels, and soft at its border."""
    reach = math.ceil(radius + 0.5)
    place = torch.arange(-reach, reach + 1, device=like.device, dtype=like.dtype)
    kernel = (radius + 0.5 - torch.hypot(place[:, None], place[None])).clamp(0.0, 1.0)
    return kernel / kernel.sum()


def _filtered(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel through a kernel; beyond the border the outermost pixels go on."""
    reach, channels = kernel.shape[-1] // 2, x.shape[1]
    padded = functional.pad(x, (reach,) * 4, mode="replicate")
    return functional.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)


def _smooth(x: Tensor, deviation: float) -> Tensor:
    """Through a Gaussian of this deviation in pixels."""
    reach = math.ceil(3.0 * deviation)
    place = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    row = (-0.5 * (place / deviation).square()).exp()
    return _filtered(x, row[:, None] * row[None] / row.sum() ** 2)


def _moved(x: Tensor, flow: Tensor) -> Tensor:
    """Pixels taken from places that lie `flow` `(N, H, W, 2)` away, right and down, in pixels."""
    height, width = x.shape[-2:]
    columns, rows = (torch.arange(n, device=x.device, dtype=x.dtype) + 0.5 for n in (width, height))
    places = torch.stack(torch.broadcast_tensors(columns[None], rows[:, None]), -1) + flow  # (N, H, W, 2)
    grid = 2.0 * places / places.new_tensor([width, height]) - 1.0
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _defocus_blur(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return _filtered(x, _disk(share * min(x.shape[-2:]), x))


def _glass_blur(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    n, _, height, width = x.shape
    flow = (2.0 * _draw(x, n, height, width, 2, generator=generator) - 1.0) * share * min(height, width)
    return _filtered(_moved(x, flow), _disk(0.5 * share * min(height, width), x))


def _motion_blur(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Along a line of a direction of its own for each image."""
    angle = math.pi * _draw(x, len(x), generator=generator)
    line = torch.stack([angle.cos(), angle.sin()], -1)[:, None, None] * (share * min(x.shape[-2:]))  # (N, 1, 1, 2)
    steps = [0.25 * step - 0.5 for step in range(5)]
    return torch.stack([_moved(x, step * line) for step in steps]).mean(0)


def _zoom_blur(x: Tensor, zoom: float, generator: torch.Generator) -> Tensor:
    zeros = torch.zeros(len(x), device=x.device, dtype=x.dtype)
    seen = []
    for step in range(6):
        scale = torch.full_like(zeros, 1.0 / (1.0 + (zoom - 1.0) * step / 5))
        maps = torch.stack([torch.stack([scale, zeros, zeros], 1), torch.stack([zeros, scale, zeros], 1)], 1)
        grid = functional.affine_grid(maps, list(x.shape), align_corners=False)
        seen.append(functional.grid_sample(x, grid, padding_mode="border", align_corners=False))
    return torch.stack(seen).mean(0)


def _cloud(x: Tensor, decay: float, generator: torch.Generator) -> Tensor:
    """Noise `(N, 1, H, W)` from 0 to 1 whose amplitudes fall with the frequency, as 1 / f^decay."""
    n, _, height, width = x.shape
    down, across = torch.fft.fftfreq(height, device=x.device), torch.fft.rfftfreq(width, device=x.device)
    frequency = torch.hypot(down[:, None], across[None]).clamp_min(1.0 / max(height, width))
    spectrum = torch.fft.rfft2(_draw(x, n, 1, height, width, generator=generator, normal=True)) / frequency**decay
    field = torch.fft.irfft2(spectrum, s=(height, width))
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    cloud: Tensor = (field - low) / (high - low).clamp_min(1e-12)
    return cloud


def _snow(x: Tensor, amount: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Flakes, blurred along their way, on a picture that is whiter."""
    share, whiteness = amount
    flakes = (_draw(x, len(x), 1, *x.shape[-2:], generator=generator) < share).to(x)
    flakes = (2.0 * _motion_blur(flakes, 0.12, generator)).clamp(0.0, 1.0)
    return (1.0 - whiteness) * x + whiteness * torch.maximum(x, 0.5 * x.mean(1, keepdim=True) + 0.5) + flakes


def _frost(x: Tensor, amount: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Crystals: where a cloud of fine structure is near its middle height, as lines on a pane."""
    kept, added = amount
    crystals = (1.0 - 4.0 * (_cloud(x, 1.2, generator) - 0.5).abs()).clamp(0.0, 1.0)
    return kept * x + added * crystals


def _fog(x: Tensor, amount: tuple[float, float], generator: torch.Generator) -> Tensor:
    thickness, decay = amount
    high = x.amax((1, 2, 3), keepdim=True).clamp_min(1e-3)
    return (x + thickness * _cloud(x, decay, generator)) * high / (high + thickness)


def _brightness(x: Tensor, added: float, generator: torch.Generator) -> Tensor:
    return x + added


def _contrast(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return mean + factor * (x - mean)


def _elastic_transform(x: Tensor, amount: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Pixels move by a smooth field of this deviation and coarseness, both as shares of the side."""
    n, _, height, width = x.shape
    size, coarse = (share * min(height, width) for share in amount)
    field = _smooth(_draw(x, n, 2, height, width, generator=generator, normal=True), coarse)
    return _moved(x, (size * field / field.std((1, 2, 3), keepdim=True).clamp_min(1e-12)).movedim(1, -1))


def _pixelate(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    small = [max(1, round(share * side)) for side in x.shape[-2:]]
    return functional.interpolate(functional.interpolate(x, small, mode="area"), x.shape[-2:], mode="nearest")


def _jpeg(x: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    """What JPEG loses: cosines of 8x8 blocks, rounded; colours at full resolution."""
    height, width = x.shape[-2:]
    padded = functional.pad(255.0 * x, (0, -width % 8, 0, -height % 8), mode="replicate")
    place = torch.arange(8, device=x.device, dtype=x.dtype)
    cosine = (math.pi * (2.0 * place[None] + 1.0) * place[:, None] / 16.0).cos() * 0.5
    cosine[0] *= math.sqrt(0.5)  # (frequency, place)
    change = x.new_tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    tables = [x.new_tensor(_LUMINANCE), functional.pad(x.new_tensor(_COLOUR), (0, 4, 0, 4), value=99.0)]
    scale = 50.0 / quality if quality < 50 else 2.0 - quality / 50.0
    is_colour = x.shape[1] == 3
    seen = torch.einsum("ij,njhw->nihw", change, padded).round() if is_colour else padded
    table = torch.stack([tables[int(is_colour and i > 0)] for i in range(x.shape[1])])
    table = (table * scale + 0.5).floor().clamp(1.0, 255.0)[:, None, :, None]  # (C, 1, 8, 1, 8)
    middle = x.new_tensor([128.0, 0.0, 0.0])[:, None, None] if is_colour else 128.0  # of brightness, and of colours
    blocks = (seen - middle).unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # (N, C, h, 8, w, 8)
    waves = torch.einsum("fi,nchiwj,gj->nchfwg", cosine, blocks, cosine)
    rounded = (waves / table).round() * table
    back = torch.einsum("fi,nchfwg,gj->nchiwj", cosine, rounded, cosine)
    back = back.flatten(4, 5).flatten(2, 3) + middle
    back = torch.einsum("ij,njhw->nihw", torch.linalg.inv(change), back) if is_colour else back
    return back[..., :height, :width] / 255.0


CORRUPTIONS: dict[str, tuple[Corruption, tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot_noise, (60.0, 25.0, 12.0, 5.0, 3.0)),
    "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": (_defocus_blur, (0.02, 0.03, 0.045, 0.06, 0.075)),
    "glass_blur": (_glass_blur, (0.02, 0.03, 0.045, 0.06, 0.08)),
    "motion_blur": (_motion_blur, (0.08, 0.12, 0.16, 0.2, 0.25)),
    "zoom_blur": (_zoom_blur, (1.11, 1.16, 1.21, 1.26, 1.31)),
    "snow": (_snow, ((0.005, 0.2), (0.01, 0.3), (0.02, 0.4), (0.03, 0.5), (0.04, 0.6))),
    "frost": (_frost, ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": (_fog, ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": (_elastic_transform, ((0.01, 0.1), (0.015, 0.1), (0.02, 0.08), (0.03, 0.08), (0.04, 0.06))),
    "pixelate": (_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (_jpeg, (25.0, 18.0, 15.0, 10.0, 7.0)),
}
"""By name: the function, and its amount at each of the five severities."""
