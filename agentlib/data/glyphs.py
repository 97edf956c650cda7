"""Glyphs drawn by strokes: an alphabet as large as one likes, for learning to tell new signs apart from few examples.

A class is 2 to 4 strokes, quadratic Bezier curves B(t) = (1 - t)^2 a + 2 t (1 - t) b + t^2 c, two in five of them
straight, with their points between .15 and .85 of the image's side. An example draws them by a hand of its own: the
points tremble, the whole is shifted, turned and scaled, the pen has another width, and the camera adds noise. Nearest
raw pixels do poorly on it (about .61 of five new classes from one example), so that there is something to learn.

In the place of Omniglot (Lake et al. 2015, doi:10.1126/science.aab3050), whose images are drawn by hand.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from agentlib.core.numbers import whole
from agentlib.data.datasets import Dataset

SIDE = 16
"""Pixels of a side."""
CURVE_POINTS = 24
"""Number of dots in a stroke."""
TREMBLE = 0.03
"""Standard deviation of each point of a stroke, as a share of the side, like all lengths here."""
SHIFT, DEGREES, SCALE = 0.10, 10.0, 0.12
"""Upper limits on how far the whole glyph is moved, turned and scaled."""
PEN, PEN_RANGE, PEN_EDGE = 0.045, (0.85, 1.25), 0.02
"""Half the width of the pen, by which factors it varies, and how soft its edge is."""
NOISE = 0.2
"""Standard deviation of the noise of each pixel."""

Floats = NDArray[np.float64]


def draw_glyphs(classes: int = 250, per_class: int = 20, seed: int = 0) -> Dataset:
    """250 invented signs, 20 examples of each by different hands: `(N, 1, 16, 16)`; for learning from few examples.

    Raises:
        ValueError: classes or examples are no whole number from 1, or the seed none from 0.
    """
    classes, per_class = whole("classes", classes, 1), whole("per_class", per_class, 1)
    generator = np.random.default_rng([whole("seed", seed), 4])
    images = np.concatenate([_drawn(_strokes(generator), per_class, generator) for _ in range(classes)])
    labels = torch.from_numpy(np.arange(classes).repeat(per_class))
    names = tuple(f"glyph {i}" for i in range(classes))
    return Dataset(torch.from_numpy(images).float()[:, None], labels, names)


def _strokes(generator: np.random.Generator) -> Floats:
    """The strokes of a class, as the three points of each, `(strokes, 3, 2)`."""
    strokes = generator.uniform(0.15, 0.85, (int(generator.integers(2, 5)), 3, 2))
    straight = generator.random(len(strokes)) < 0.4
    middle = strokes[:, [0, 2]].mean(1)
    strokes[straight, 1] = middle[straight]
    return strokes


def _drawn(strokes: Floats, count: int, generator: np.random.Generator) -> Floats:
    """Examples `(count, SIDE, SIDE)` between 0 and 1 of one class."""
    points = strokes + TREMBLE * generator.standard_normal((count, *strokes.shape))  # (count, strokes, 3, 2)
    angle = np.deg2rad(generator.uniform(-DEGREES, DEGREES, count))
    scale = generator.uniform(1.0 - SCALE, 1.0 + SCALE, count)
    turn = scale[:, None, None] * np.stack(
        [np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2
    )  # (count, 2, 2)
    by = generator.uniform(-SHIFT, SHIFT, (count, 1, 1, 2))
    points = np.einsum("nij,nspj->nspi", turn, points - 0.5) + 0.5 + by
    t = np.linspace(0.0, 1.0, CURVE_POINTS)
    weights = np.stack([(1.0 - t) ** 2, 2.0 * t * (1.0 - t), t**2])  # (3, dots)
    dots = np.einsum("nspi,pt->nsti", points, weights).reshape(count, -1, 2)
    place = (np.arange(SIDE) + 0.5) / SIDE
    pixels = np.stack(np.meshgrid(place, place, indexing="ij"), -1).reshape(-1, 2)  # (SIDE * SIDE, 2)
    # |p - d|^2 = |p|^2 - 2 p d + |d|^2, of each pixel to the nearest dot
    products = np.square(dots).sum(-1)[:, None] - 2.0 * pixels @ dots.transpose(0, 2, 1)  # (count, SIDE * SIDE, dots)
    distance = np.sqrt(np.maximum(np.square(pixels).sum(-1) + products.min(-1), 0.0))  # (count, SIDE * SIDE)
    pen = PEN * generator.uniform(*PEN_RANGE, (count, 1))
    ink = (1.0 / (1.0 + np.exp((distance - pen) / PEN_EDGE))).reshape(count, SIDE, SIDE)
    noisy: Floats = ink + NOISE * generator.standard_normal(ink.shape)
    return noisy.clip(0.0, 1.0)
