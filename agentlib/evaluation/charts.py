"""Charts of results: bars beside each other, lines against a number of steps, and rows of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from agentlib.backbones.files import replacing
from agentlib.evaluation.curves import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, apart for every kind of colour vision; the line styles hold in black and white.
_STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#333333", (0, (1, 1))))
_INK, _SOFT = "#333333", "#9aa3af"


def bars(values: Mapping[str, float], title: str, label: str, highlight: Sequence[str] = ()) -> Figure:
    """A bar for each name, from top to bottom, with its number; those in `highlight` in colour.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    figure = new_figure((7, 0.6 + 0.4 * len(values)))
    axes = figure.add_subplot()
    names = [name.replace("_", " ") for name in values]
    colours = [_STYLES[0][0] if name in highlight else _SOFT for name in values]
    drawn = axes.barh(names, list(values.values()), color=colours)
    axes.bar_label(drawn, fmt="%.3f", padding=4, fontsize=9, color=_INK)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    _dressed(axes, title, label)
    return figure


def lines(
    curves: Mapping[str, ArrayLike], title: str, x_label: str, y_label: str, floor: float | None = None
) -> Figure:
    """A line for each name through its values at 0, 1, 2, ...; `floor`, what needs no adapting, is drawn across.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    figure = new_figure((7, 4))
    axes = figure.add_subplot()
    for (name, values), (colour, dash) in zip(curves.items(), _STYLES, strict=False):
        axes.plot(np.asarray(values), color=colour, linestyle=dash, marker="o", markersize=4, linewidth=2, label=name)
    if floor is not None:
        axes.axhline(floor, color=_SOFT, linewidth=1, label="best that does not know the task")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    _dressed(axes, title, x_label, y_label)
    return figure


def functions(
    x: ArrayLike, truth: ArrayLike, fits: Mapping[str, ArrayLike], seen: tuple[ArrayLike, ArrayLike]
) -> Figure:
    """Functions of one number, a panel for each task: the truth, what was fitted, and the points that were seen.

    Args:
        x: `(tasks, n)`, rising in each row.
        truth: `(tasks, n)`.
        fits: by name, each `(tasks, n)`.
        seen: x and y, each `(tasks, m)`.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    places, wanted = np.asarray(x), np.asarray(truth)
    figure = new_figure((3.2 * len(places), 3))
    grid: Any = figure.subplots(1, len(places), squeeze=False, sharey=True)
    for task, axes in enumerate(grid[0]):
        axes.plot(places[task], wanted[task], color=_SOFT, linewidth=3, label="truth")
        for (name, values), (colour, dash) in zip(fits.items(), _STYLES, strict=False):
            axes.plot(places[task], np.asarray(values)[task], color=colour, linestyle=dash, label=name)
        axes.scatter(*(np.asarray(part)[task] for part in seen), color=_INK, s=14, zorder=3, label="seen")
        _dressed(axes, f"task {task + 1}", "x", "y" if task == 0 else None)
    grid[0][0].legend(frameon=False, fontsize=8, labelcolor=_INK)
    return figure


def rows_of_images(rows: Mapping[str, Tensor], title: str, marks: Mapping[str, Sequence[bool]] | None = None) -> Figure:
    """Images `(n, C, H, W)` between 0 and 1, a row for each name; an image that is marked false gets a red frame.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    width = max(len(images) for images in rows.values())
    figure = new_figure((max(0.55 * width, 4), 0.4 + 0.62 * len(rows)))
    grid: Any = figure.subplots(len(rows), width, squeeze=False)
    for line, (name, images) in zip(grid, rows.items(), strict=True):
        right = (marks or {}).get(name, [True] * len(images))
        for place, axes in enumerate(line):
            axes.set_xticks([])
            axes.set_yticks([])
            if place >= len(images):
                axes.set_axis_off()
                continue
            image = images[place].clamp(0.0, 1.0).movedim(0, -1)  # (H, W, C)
            axes.imshow(image.expand(-1, -1, 3).cpu().numpy(), interpolation="nearest")
            for spine in axes.spines.values():
                spine.set(color="#cccccc" if right[place] else _STYLES[1][0], linewidth=0.5 if right[place] else 2.5)
        line[0].set_ylabel(name, fontsize=8, color=_INK, rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=10, color=_INK, x=0.02, ha="left")
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes a chart as PNG, whole or not at all; returns its path."""
    with replacing(path) as temporary:
        temporary.write_bytes(png(figure))
    return path


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of this size in inches, on a canvas of its own.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'agentlib[plots]'") from error
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _dressed(axes: Axes, title: str, x_label: str, y_label: str | None = None) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK, pad=10)
    axes.set_xlabel(x_label, fontsize=10, color=_INK)
    if y_label is not None:
        axes.set_ylabel(y_label, fontsize=10, color=_INK)
    axes.tick_params(colors=_INK, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
