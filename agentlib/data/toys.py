"""Small generated data sets whose truth is known: points in the plane for generative models, and pictures of shapes.

The same arguments give the same data: each function draws from a generator of its own. A number of examples that is
no whole number from 1, or a seed that is none from 0, is a ValueError.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.numbers import whole
from agentlib.data.datasets import Dataset

POINTS = 40_000
"""Points in a data set of the plane."""
EIGHT_RADIUS, EIGHT_DEVIATION = 2.0, 0.1
"""Of "8gaussians": the circle on which the centers stand, and the standard deviation of each."""
GRID_SPACING, GRID_DEVIATION = 1.0, 0.05
"""Of "25gaussians": the distance of neighbouring centers, and the standard deviation of each."""

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": (0.9, 0.2, 0.2), "green": (0.2, 0.8, 0.3), "blue": (0.25, 0.4, 0.95), "yellow": (0.95, 0.85, 0.2)}


def eight_centers() -> Tensor:
    """The centers `(8, 2)` of "8gaussians", by angle."""
    angles = torch.arange(8) * (math.pi / 4)
    return EIGHT_RADIUS * torch.stack([angles.cos(), angles.sin()], 1)


def grid_centers() -> Tensor:
    """The centers `(25, 2)` of "25gaussians", row by row."""
    steps = GRID_SPACING * (torch.arange(5) - 2.0)
    return torch.cartesian_prod(steps, steps)


def eight_gaussians(n: int = POINTS, seed: int = 0) -> Dataset:
    """Eight Gaussians of deviation 0.1 on a circle of radius 2: `(N, 2)`; the label is the Gaussian."""
    return _mixture(eight_centers(), EIGHT_DEVIATION, n, seed)


def grid_of_gaussians(n: int = POINTS, seed: int = 0) -> Dataset:
    """25 Gaussians of deviation 0.05 on a grid of spacing 1: `(N, 2)`; the label is the Gaussian."""
    return _mixture(grid_centers(), GRID_DEVIATION, n, seed)


def _mixture(centers: Tensor, deviation: float, n: int, seed: int) -> Dataset:
    n, generator = whole("n", n, 1), np.random.default_rng(whole("seed", seed))
    label = torch.from_numpy(generator.integers(len(centers), size=n))
    noise = torch.from_numpy(generator.normal(size=(n, 2))).float()
    return Dataset(centers[label] + deviation * noise, label, tuple(map(str, range(len(centers)))))


def swiss_roll(n: int = POINTS, seed: int = 0) -> Dataset:
    """A spiral of one and a half turns with noise of deviation 0.05, of about unit variance: `(N, 2)`, unlabelled."""
    n, generator = whole("n", n, 1), np.random.default_rng(whole("seed", seed))
    angle = 1.5 * math.pi * (1.0 + 2.0 * generator.random(n))  # 1.5 pi to 4.5 pi
    spiral = np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1) / 7.5
    return Dataset(torch.from_numpy(spiral + 0.05 * generator.normal(size=(n, 2))).float())


def two_moons(n: int = POINTS, seed: int = 0) -> Dataset:
    """Two interleaved half circles of radius 1 with noise of deviation 0.1: `(N, 2)`; the label is the moon."""
    n, generator = whole("n", n, 1), np.random.default_rng(whole("seed", seed))
    label = generator.integers(2, size=n)
    angle = math.pi * generator.random(n)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = np.where(label[:, None] == 0, upper, [1.0, 0.5] - upper) - [0.5, 0.25]
    noisy = points + 0.1 * generator.normal(size=(n, 2))
    return Dataset(torch.from_numpy(noisy).float(), torch.from_numpy(label), ("upper", "lower"))


def shapes(n: int = 4_000, seed: int = 0, size: int = 16) -> Dataset:
    """Pictures of one coloured shape, anywhere, of any size, on black: `(N, 3, 16, 16)`; 16 classes as "red circle"."""
    n, generator = whole("n", n, 1), np.random.default_rng(whole("seed", seed))
    classes = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
    label = generator.integers(len(classes), size=n)
    radius = generator.uniform(0.2, 0.32, n) * size
    center = generator.uniform(radius[:, None], size - radius[:, None], (n, 2))  # wholly inside the picture
    ticks = np.arange(size) + 0.5
    x = (ticks[None, None, :] - center[:, 0, None, None]) / radius[:, None, None]  # (N, 1, size): 1 is the rim
    y = (ticks[None, :, None] - center[:, 1, None, None]) / radius[:, None, None]  # (N, size, 1)
    inside = np.stack([inside_shape(shape, x, y) for shape in SHAPES])  # (shapes, N, size, size)
    mask = inside[label % len(SHAPES), np.arange(n)]
    colour = np.array(list(COLOURS.values()))[label // len(SHAPES)]  # (N, 3)
    pictures = mask[:, None] * colour[:, :, None, None]  # (N, 3, size, size)
    return Dataset(torch.from_numpy(pictures).float(), torch.from_numpy(label), classes)


def inside_shape(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which pixels `(N, size, size)` belong to a shape that reaches to 1 in both coordinates; y points downwards."""
    if shape == "circle":
        return x**2 + y**2 <= 1.0
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.85
    if shape == "triangle":
        return (y <= 0.9) & (2.0 * np.abs(x) <= y + 1.0)
    return (np.minimum(np.abs(x), np.abs(y)) <= 0.3) & (np.maximum(np.abs(x), np.abs(y)) <= 1.0)


TOYS = {
    "8gaussians": eight_gaussians,
    "25gaussians": grid_of_gaussians,
    "swiss_roll": swiss_roll,
    "two_moons": two_moons,
    "shapes": shapes,
}
"""Data sets by name, as `agentlib.data.DATASETS` has them."""

MIXTURES = {"8gaussians": (eight_centers(), EIGHT_DEVIATION), "25gaussians": (grid_centers(), GRID_DEVIATION)}
"""Centers and deviation of the data sets that are mixtures of round Gaussians."""
