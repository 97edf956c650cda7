"""Generated scenes, all of which is known: shapes before a wall, and two labelled images on a canvas.

The same arguments give the same scenes. A number of pictures that is no whole number from 1 is a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from agentlib.core.numbers import whole
from agentlib.data.datasets import Dataset
from agentlib.data.scenes import Scenes
from agentlib.data.toys import COLOURS, SHAPES, inside_shape
from agentlib.metrics.boxes import mask_boxes

PICTURES = 3_000
"""Pictures of shapes, by default."""
NEAR, FAR, WALL = 1.0, 2.5, 3.0
"""Depths between which the shapes are, and of the wall at the lower edge; at the upper edge it is one further."""
RADIUS = 0.22
"""Half of the width of a shape at depth 1, as a share of the picture's side; at depth z it is RADIUS / z."""
LEAST_SHOWN = 0.4
"""Share of a shape that others leave to see, at least; a shape of which less would be seen is not there at all."""
NOISE = 0.03
"""Deviation of each pixel's brightness."""
INK = 0.3
"""Brightness from which on a pixel belongs to a digit."""
CHUNK = 50


def shape_scenes(n: int = PICTURES, seed: int = 0, size: int = 64, most: int = 4) -> Scenes:
    """Up to four coloured shapes before a wall, nearer ones larger and in front: (N, 3, 64, 64), all of it known.

    Four classes: circle, square, triangle and cross, each in one of four colours. The objects of a picture are in the
    order of their depth, the nearest first; boxes and masks are of what is seen. Captions go from left to right.

    Args:
        n: pictures.
        seed: of everything.
        size: height and width.
        most: objects per picture; there are at least one, and as many as this at most.
    """
    n, generator = whole("n", n, 1), np.random.default_rng(whole("seed", seed))
    size, most = whole("size", size, 16), whole("most", most, 1, 16)
    kind, colour = (generator.integers(len(names), size=(n, most)) for names in (SHAPES, COLOURS))
    is_there = np.arange(most) < generator.integers(1, most + 1, (n, 1))
    z = np.sort(np.where(is_there, generator.uniform(NEAR, FAR, (n, most)), np.inf), 1)  # the nearest first
    radius = RADIUS * size / np.where(np.isfinite(z), z, FAR)
    center = generator.uniform(radius[..., None], size - radius[..., None], (n, most, 2))
    grey = generator.uniform(0.0, 0.35, n)
    masks = np.zeros((n, size, size), np.uint8)
    chunks = [slice(start, start + CHUNK) for start in range(0, n, CHUNK)]
    for rows in chunks:
        masks[rows] = _painted(kind[rows], z[rows], radius[rows], center[rows], size)
    # An object that was not painted leaves a gap, which is closed.
    shown = np.stack([(masks == one).any((1, 2)) for one in range(1, most + 1)], 1)  # (n, most)
    order = np.argsort(~shown, 1, kind="stable")
    number = np.zeros((n, most + 1), np.uint8)
    np.put_along_axis(number[:, 1:], order, np.arange(1, most + 1, dtype=np.uint8)[None].repeat(n, 0), 1)
    kind, colour, z, shown = (np.take_along_axis(part, order, 1) for part in (kind, colour, z, shown))
    picture = np.arange(n)[:, None, None]
    masks = number[picture, masks]

    palette = np.concatenate([grey[:, None, None].repeat(3, 2), np.array(list(COLOURS.values()))[colour]], 1)
    palette = palette.astype(np.float32)  # (n, 1 + most, 3)
    images = np.zeros((n, 3, size, size), np.uint8)
    for rows in chunks:
        colours = np.moveaxis(palette[picture[rows], masks[rows]], -1, 1)
        noisy = colours + NOISE * generator.standard_normal(colours.shape, np.float32)
        images[rows] = np.rint(noisy.clip(0.0, 1.0) * 255.0)
    wall = (WALL + 1.0 - (np.arange(size) + 0.5) / size)[:, None]
    depth = np.where(masks > 0, np.pad(z, ((0, 0), (1, 0)))[picture, masks], wall).astype(np.float32)
    there, seen = torch.from_numpy(shown), torch.from_numpy(masks)
    boxes = mask_boxes(seen, most)
    return Scenes(
        torch.from_numpy(images),
        boxes,
        torch.from_numpy(kind).where(there, -1),
        seen,
        torch.from_numpy(depth),
        tuple(_caption(*row) for row in zip(kind, colour, boxes[..., 0].numpy(), shown, strict=True)),
        SHAPES,
    )


def _painted(
    kind: NDArray[np.int64], z: NDArray[np.float64], radius: NDArray[np.float64], center: NDArray[np.float64], size: int
) -> NDArray[np.uint8]:
    """The object that each pixel shows `(n, size, size)`: from the nearest on, each takes what is still free."""
    masks, ticks = np.zeros((len(kind), size, size), np.uint8), np.arange(size) + 0.5
    for one in range(kind.shape[1]):
        for number, name in enumerate(SHAPES):
            rows = np.flatnonzero((kind[:, one] == number) & np.isfinite(z[:, one]))
            r, at = radius[rows, one, None], center[rows, one]
            x, y = (ticks - at[:, :1]) / r, (ticks - at[:, 1:]) / r
            whole_shape = inside_shape(name, x[:, None, :], y[:, :, None])
            seen = whole_shape & (masks[rows] == 0)
            shares = seen.sum((1, 2)) / np.maximum(whole_shape.sum((1, 2)), 1)
            masks[rows] += np.where(seen & (shares >= LEAST_SHOWN)[:, None, None], one + 1, 0).astype(np.uint8)
    return masks


def _caption(
    kind: NDArray[np.int64], colour: NDArray[np.int64], left: NDArray[np.float32], shown: NDArray[np.bool_]
) -> str:
    """Such as "a red circle, a blue square and a green cross", from left to right; "nothing" if none is seen."""
    order = [row for row in np.argsort(left, kind="stable") if shown[row]]
    names = [f"a {list(COLOURS)[colour[row]]} {SHAPES[kind[row]]}" for row in order]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "nothing"


def two_on_canvas(data: Dataset, n: int = 2_000, seed: int = 0) -> Scenes:
    """Two labelled images on a dark canvas, nowhere more than a quarter on one another: such as two digits of MNIST.

    Images of 28x28 are on a canvas of 64x64, others on one as large in proportion. The box of a digit is that of its
    ink, as is its mask; where both have ink, the brighter one is seen.

    Args:
        data: images `(N, C, H, W)` of classes, between 0 and 1, bright on dark.
        n: pictures.
        seed: of the choice and the places.

    Raises:
        ValueError: the data holds no labelled images, or numbers outside 0 to 1.
    """
    n, generator = whole("n", n, 1), np.random.default_rng(whole("seed", seed))
    if data.x.dim() != 4 or not data.classes or data.x.shape[2] != data.x.shape[3]:
        raise ValueError(f"two on a canvas are square images (N, C, S, S) with classes, not {tuple(data.x.shape)}")
    if not 0.0 <= float(data.x.min()) <= float(data.x.max()) <= 1.0:
        found = f"{float(data.x.min()):.3g} to {float(data.x.max()):.3g}"
        raise ValueError(f"two on a canvas are images between 0 and 1, not from {found}: scale them, or give bytes")
    channels, side = data.x.shape[1], data.x.shape[2]
    canvas = -(-round(side * 64 / 28) // 8) * 8
    chosen = generator.integers(len(data), size=(n, 2))
    place = np.zeros((n, 2, 2), np.int64)
    left = np.arange(n)
    while len(left):  # until none of them is too near to its neighbour
        place[left] = generator.integers(canvas - side + 1, size=(len(left), 2, 2))
        left = left[np.abs(place[left, 0] - place[left, 1]).max(1) < 0.75 * side]
    pictures, masks = np.zeros((n, channels, canvas, canvas), np.uint8), np.zeros((n, canvas, canvas), np.uint8)
    for start in range(0, n, CHUNK):
        some = slice(start, start + CHUNK)
        brightness, masks[some] = _composed(data.x, chosen[some], place[some], canvas)
        pictures[some] = np.round(brightness * 255.0)
    labels = data.targets[torch.from_numpy(chosen)]
    return Scenes(
        torch.from_numpy(pictures),
        torch.cat([mask_boxes(torch.from_numpy(masks[i : i + CHUNK]), 2) for i in range(0, n, CHUNK)]),
        labels,
        torch.from_numpy(masks),
        captions=tuple(f"{data.classes[a]} and {data.classes[b]}" for a, b in labels.tolist()),
        classes=data.classes,
    )


def _composed(
    x: torch.Tensor, chosen: NDArray[np.int64], place: NDArray[np.int64], canvas: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Pictures `(n, C, canvas, canvas)` and masks `(n, canvas, canvas)` of images in rows and at places `(n, 2)`."""
    n, channels, ticks = len(chosen), x.shape[1], np.arange(x.shape[2])
    pictures, masks = np.zeros((n, channels, canvas, canvas), np.float32), np.zeros((n, canvas, canvas), np.uint8)
    rows = np.arange(n)[:, None, None]
    for one in range(2):
        now = np.moveaxis(x[chosen[:, one]].numpy(), 1, -1)  # (n, side, side, C)
        across, down = place[:, one, 1, None, None] + ticks, place[:, one, 0, None, None] + ticks[:, None]
        before = pictures[rows, :, down, across]
        brightness = now.max(-1)
        is_seen = (brightness >= INK) & (brightness > before.max(-1))
        pictures[rows, :, down, across] = np.maximum(before, now)
        masks[rows, down, across] = np.where(is_seen, one + 1, masks[rows, down, across])
    return pictures, masks


def one_shape() -> Scenes:
    """One coloured shape before a wall in each of 3,000 pictures: (N, 3, 64, 64), all of it known."""
    return shape_scenes(most=1)


SCENES: dict[str, Callable[[], Scenes]] = {"shapes": shape_scenes, "one_shape": one_shape}
"""Scenes by name; `agentlib list data` prints the first line of each docstring."""
