"""Mixtures of images: with each other and their labels (Mixup, CutMix), with fractals (PixMix), and holes (Cutout).

    Mixup (Zhang et al. 2018, arXiv:1710.09412):   x' = s x1 + (1 - s) x2,          s ~ Beta(alpha, alpha)
    CutMix (Yun et al. 2019, arXiv:1905.04899):    x' = x1, and x2 inside a box of area 1 - s
    loss = s L(f(x'), y1) + (1 - s) L(f(x'), y2)

A box of CutMix is clipped at the border, and s is the share of x1 that is left then. The partner of an image is its
neighbour in the batch, whose order is random. PixMix (Hendrycks et al. 2022, arXiv:2112.05135) mixes an image up to
four times, by sums or products, with pictures of rich structure or changed copies of itself.

The lecture notes leave out the share s of x1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agentlib.data.auto_augment import AugMix

ATTEMPTS = 8
"""At drawing from a gamma distribution, each of which is accepted with a probability above 0.95."""
FRACTALS, FRACTAL_SIDE = 32, 64
"""Pictures for PixMix, and their sides in pixels."""


def beta_shares(alpha: float, n: int, device: torch.device | str = "cpu") -> Tensor:
    """n draws from Beta(alpha, alpha), `(n,)`, by torch's default generator and in fixed shapes.

    A ratio of gamma variables; each is that of alpha + 1 (Marsaglia and Tsang 2000) times U^(1 / alpha).
    """
    d = alpha + 2.0 / 3.0
    normal = torch.randn(ATTEMPTS, 2, n, dtype=torch.float32, device=device)
    uniform = torch.rand(ATTEMPTS + 1, 2, n, dtype=torch.float32, device=device).clamp_min(1e-30)
    cube = (1.0 + normal / math.sqrt(9.0 * d)) ** 3
    log_cube = cube.clamp_min(1e-30).log()
    accepted = (cube > 0.0) & (uniform[:-1].log() < 0.5 * normal.square() + d * (1.0 - cube + log_cube))
    chosen = log_cube.gather(0, accepted.float().argmax(0, keepdim=True))[0]  # (2, n)
    log_gamma = chosen + uniform[-1].log() / alpha
    return torch.sigmoid(log_gamma[0] - log_gamma[1])


def mixup(images: Tensor, share: Tensor) -> Tensor:
    """Examples `(B, ...)` of which `share` `(B,)` is their own and the rest their neighbour's, `roll(1, 0)`."""
    own = share.view(-1, *[1] * (images.dim() - 1))
    return own * images + (1.0 - own) * images.roll(1, 0)


def box(rows: Tensor, columns: Tensor, height: Tensor, width: Tensor, sides: tuple[int, int]) -> Tensor:
    """Masks `(B, H, W)` of boxes around centres, clipped at the borders; all arguments are `(B,)` whole pixels.

    A box begins at its centre less half of a side, rounded down.
    """

    def inside(centre: Tensor, length: Tensor, side: int) -> Tensor:
        place, first = torch.arange(side, device=centre.device), (centre - length // 2)[:, None]
        return (place >= first) & (place < first + length[:, None])

    return inside(rows, height, sides[0])[:, :, None] & inside(columns, width, sides[1])[:, None, :]


def cutmix(images: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Images `(B, C, H, W)` with a box of their neighbour's, and the share of each that is its own, `(B,)`."""
    n, _, height, width = images.shape
    side = (1.0 - share).clamp_min(0.0).sqrt()
    rows, columns = (torch.randint(length, (n,), device=images.device) for length in (height, width))
    tall, wide = ((length * side).long() // 2 * 2 for length in (height, width))  # even, as the authors' code has them
    cut = box(rows, columns, tall, wide, (height, width))  # (B, H, W)
    return torch.where(cut[:, None], images.roll(1, 0), images), 1.0 - cut.float().mean((1, 2))


@dataclass(frozen=True)
class RandomCutout:
    """Sets a square of each image to zero (DeVries and Taylor 2017, arXiv:1708.04552)."""

    pixels: int
    """Side of the square; it is cut off where it reaches over the border."""

    def __call__(self, images: Tensor) -> Tensor:
        n, _, height, width = images.shape
        rows, columns = (torch.randint(length, (n,), device=images.device) for length in (height, width))
        side = torch.full_like(rows, self.pixels)
        return images * ~box(rows, columns, side, side, (height, width))[:, None]


@lru_cache(maxsize=1)
def fractals(n: int = FRACTALS, side: int = FRACTAL_SIDE, seed: int = 0) -> Tensor:
    """Pictures `(n, 3, side, side)` between 0 and 1, of systems of two to four random contractions, each of one colour.

    A point goes on by a random one of its system's maps; the picture shows how often the points were where, and on
    which map they came (Barnsley 1988, chapter 3).
    """
    generator, points, steps = np.random.default_rng(seed), 256, 60
    angle = generator.uniform(-np.pi, np.pi, (n, 4, 2))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], -1).reshape(n, 4, 2, 2, 2)
    shrink = generator.uniform(0.35, 0.8, (n, 4, 2, 1))
    matrix = turn[:, :, 0] @ (shrink * turn[:, :, 1])  # (n, 4, 2, 2), both singular values below 0.8
    move, maps = generator.uniform(-1.0, 1.0, (n, 4, 2)), generator.integers(2, 5, n)
    colour = generator.uniform(0.0, 1.0, (n, 4, 3))
    place, system = np.zeros((n, points, 2)), np.arange(n)[:, None]
    tracks = np.zeros((steps, n, points, 5))
    for step in range(steps):
        chosen = (generator.random((n, points)) * maps[:, None]).astype(np.int64)
        place = np.einsum("npij,npj->npi", matrix[system, chosen], place) + move[system, chosen]
        tracks[step] = np.concatenate([place, colour[system, chosen]], -1)
    seen = tracks[20:].transpose(1, 0, 2, 3).reshape(n, -1, 5)
    low, high = seen[..., :2].min(1, keepdims=True), seen[..., :2].max(1, keepdims=True)
    pixel = ((seen[..., :2] - low) / (high - low + 1e-9) * side).astype(np.int64).clip(0, side - 1)
    index = (system * side + pixel[..., 0]) * side + pixel[..., 1]
    sums = np.zeros((n * side * side, 3))
    np.add.at(sums, index.ravel(), seen[..., 2:].reshape(-1, 3))
    bright = np.log1p(sums).reshape(n, side, side, 3).transpose(0, 3, 1, 2)
    return torch.from_numpy(bright / bright.max((1, 2, 3), keepdims=True)).float()


class PixMix(nn.Module):
    """Mixes images `(B, C, H, W)` between 0 and 1 with fractals and with changed copies of themselves.

    Args:
        rounds: largest number of mixtures of an image.
        beta: of the weights; the larger, the closer the image stays to itself.
    """

    pictures: Tensor

    def __init__(self, rounds: int = 4, beta: float = 3.0) -> None:
        super().__init__()
        self.rounds, self.beta, self.change = rounds, beta, AugMix()
        self.register_buffer("pictures", fractals(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        (n, channels, *sides), images = images.shape, images.clamp(0.0, 1.0)
        pictures = functional.interpolate(self.pictures.to(images), sides, mode="bilinear", antialias=True)
        pictures = pictures if channels == 3 else pictures.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        flips = torch.rand(3 * self.rounds + 1, n, 1, 1, 1, dtype=torch.float32, device=images.device) < 0.5
        coins = flips.split(self.rounds)
        rounds = torch.randint(self.rounds + 1, (n, 1, 1, 1), device=images.device)
        mixed = torch.where(coins[3][0], self.change.one(images), images)
        for step in range(self.rounds):
            picture = pictures[torch.randint(len(pictures), (n,), device=images.device)]
            other = torch.where(coins[0][step], self.change.one(images), picture)
            first, second = self._weights(coins[2][step], images)
            added = 0.5 * (first * (2.0 * mixed - 1.0) + second * (2.0 * other - 1.0) + 1.0)
            multiplied = 0.5 * (2.0 * mixed).clamp_min(1e-6) ** first * (2.0 * other).clamp_min(1e-6) ** second
            found = torch.where(coins[1][step], added, multiplied).clamp(0.0, 1.0)
            mixed = torch.where(step < rounds, found, mixed)
        return mixed

    def _weights(self, inward: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Beta(beta, 1) and Beta(1, beta); or 1 plus and minus one of the latter each."""
        uniform = torch.rand(2, len(images), 1, 1, 1, dtype=images.dtype, device=images.device)
        large, small = uniform[0] ** (1.0 / self.beta), 1.0 - uniform[1] ** (1.0 / self.beta)
        other = 1.0 - uniform[0] ** (1.0 / self.beta)
        return torch.where(inward, large, 1.0 + other), torch.where(inward, small, -small)
