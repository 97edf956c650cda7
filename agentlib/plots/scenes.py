"""Pictures of what a picture shows: classes of pixels, depths and boxes, a column for each picture.

The functions raise ImportError where matplotlib is absent; the message names the extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from agentlib.plots.pictures import AMBER, BLUE, GREEN, INK, ORANGE, PINK, SKY, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = (ORANGE, BLUE, GREEN, AMBER, PINK, SKY, "#8c564b", "#bcbd22", "#7f3fbf", "#444444")
LEAST_SCORE = 0.5
"""Detections that are less sure are not drawn."""


def segmentations(images: Tensor, rows: Mapping[str, Tensor], classes: Sequence[str]) -> Figure:
    """Images `(n, C, H, W)` between 0 and 1, and below each the classes of its pixels `(n, H, W)`, 0 for background."""
    figure, grid = _grid(images, list(rows))
    palette = np.array([_rgb("#ffffff"), *(_rgb(COLOURS[i % len(COLOURS)]) for i in range(len(classes)))])
    for line, labels in zip(grid[1:], rows.values(), strict=True):
        for axes, one in zip(line, labels, strict=True):
            axes.imshow(palette[one.cpu().numpy()], interpolation="nearest")
    _names(figure, classes)
    return figure


def depths(images: Tensor, rows: Mapping[str, Tensor]) -> Figure:
    """Images `(n, C, H, W)` between 0 and 1, and below each depths `(n, H, W)` on one scale; near is dark."""
    figure, grid = _grid(images, list(rows), beside=1.0)
    low, high = (float(getattr(next(iter(rows.values())), name)()) for name in ("min", "max"))
    for line, maps in zip(grid[1:], rows.values(), strict=True):
        for axes, one in zip(line, maps, strict=True):
            shown = axes.imshow(one.cpu().numpy(), cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
    figure.colorbar(shown, ax=list(np.ravel(grid[1:])), label="depth", fraction=0.05)
    return figure


def boxes(images: Tensor, rows: Mapping[str, Tensor], classes: Sequence[str]) -> Figure:
    """Images `(n, C, H, W)` between 0 and 1 with boxes `(n, m, 6)`: corners, score and class, -1 for none."""
    from matplotlib.patches import Rectangle

    figure, grid = _grid(images, list(rows), only_rows=True)
    for line, found in zip(grid, rows.values(), strict=True):
        for axes, some in zip(line, found.cpu().tolist(), strict=True):
            for x1, y1, x2, y2, score, label in some:
                if score >= LEAST_SCORE and label >= 0:
                    colour = COLOURS[int(label) % len(COLOURS)]
                    corner = (x1 - 0.5, y1 - 0.5)  # pixels of a picture have their centers at whole numbers
                    axes.add_patch(Rectangle(corner, x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5))
    _names(figure, classes)
    return figure


def captions(images: Tensor, looks: Sequence[tuple[Sequence[str], Tensor | None]]) -> Figure:
    """Images `(n, C, H, W)` between 0 and 1, a row for each, and beside it where each word of its caption looks.

    Args:
        images: n of them.
        looks: the words, and their weights `(T, h, w)`; with None in place of these the one text is below the image.
    """
    columns = 1 + max(0 if weights is None else len(words) for words, weights in looks)
    figure, axes = new_figure(
        (1.15 * columns + (2.0 if columns == 1 else 0.2), 1.4 * len(images) + 0.2), len(images), columns
    )
    seen = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    shown = seen.clamp(0.0, 1.0).movedim(1, -1).expand(-1, -1, -1, 3).cpu().numpy()
    for line, image, (words, weights) in zip(np.reshape(axes, (len(images), columns)), shown, looks, strict=True):
        for one in line:
            one.set_axis_off()
        line[0].imshow(image, interpolation="nearest")
        if weights is None:
            line[0].set_title(words[0], fontsize=9, color=INK)
            continue
        for one, word, weight in zip(line[1:], words, weights.float().cpu(), strict=False):
            light = functional.interpolate((weight / weight.max())[None, None], image.shape[:2])[
                0, 0, :, :, None
            ].numpy()
            one.imshow(1.0 - (1.0 - image) * (0.12 + 0.88 * light), interpolation="nearest")  # pale where it looks away
            one.set_title(word, fontsize=9, color=INK)
    return figure


def answered(images: Tensor, answers: Tensor, classes: Sequence[str]) -> Figure:
    """Images `(n, C, H, W)` between 0 and 1, and the answers of a model of scenes.

    Args:
        images: n of them.
        answers: classes of pixels or depths `(n, H, W)`, or boxes `(n, m, 6)`.
        classes: names of the classes; none for depths.
    """
    if answers.shape[1:] != images.shape[2:]:
        return boxes(images, {"predicted": answers}, classes)
    rows = {"predicted": answers}
    return segmentations(images, rows, classes) if classes else depths(images, rows)


def _grid(images: Tensor, names: list[str], only_rows: bool = False, beside: float = 0.0) -> tuple[Figure, Any]:
    """A figure with a first row of images and empty rows of these names; or with images in each of them.

    It has room for the names of rows, and by `beside`, in inches, for more on the other side.
    """
    count = len(images)
    rows = names if only_rows else ["picture", *names]
    figure, axes = new_figure((1.1 * count + 1.2 + beside, 1.15 * len(rows) + 0.4), len(rows), count)
    grid = np.reshape(axes, (len(rows), count))
    seen = images[:, :3] if images.shape[1] >= 3 else images[:, :1]  # of other channels there are no colours
    shown = seen.clamp(0.0, 1.0).movedim(1, -1).expand(-1, -1, -1, 3).cpu().numpy()
    for number, (name, line) in enumerate(zip(rows, grid, strict=True)):
        for one, image in zip(line, shown, strict=True):
            one.grid(visible=False)
            one.set(xticks=[], yticks=[])
            one.spines[:].set(visible=True, color="#bbbbbb", linewidth=0.8)
            if only_rows or number == 0:
                one.imshow(image, interpolation="nearest")
        line[0].set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center")
    return figure, grid


def _names(figure: Figure, classes: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=COLOURS[i % len(COLOURS)], label=name) for i, name in enumerate(classes)]
    columns = max(1, min(len(classes), int(figure.get_figwidth() / 1.1)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
