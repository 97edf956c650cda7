"""The common style of our pictures, and curves, confusion matrices and predictions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, apart for every kind of colour vision; the line styles hold in black and white.
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, GREY = "#56B4E9", "#E69F00", "#777777"
INK = "#333333"
STYLES = (
    *((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."), (PINK, ":")),
    *((SKY, "-"), (AMBER, "--"), (INK, "-."), (GREY, ":")),
)


def new_figure(
    size: tuple[float, float], rows: int = 1, columns: int = 1, height_ratios: Sequence[float] | None = None
) -> tuple[Figure, Any]:
    """A figure with its axes, without pyplot and so without touching the caller's.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'agentlib-rl[plots]'") from error
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, height_ratios=height_ratios)
    for one in np.ravel(axes):
        one.grid(color="#dddddd", linewidth=0.7)
        one.set_axisbelow(True)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    return figure, axes


def legend(axes: Axes) -> None:
    """A legend beside the axes, where it covers no curve."""
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def png(figure: Figure) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> Path:
    """Writes the picture as a PNG file, whole or not at all; returns its path."""
    from agentlib.backbones.files import replacing  # late: it brings torch, and learning curves need none

    with replacing(path) as temporary:
        temporary.write_bytes(png(figure))
    return path


def lines(
    x: ArrayLike, curves: dict[str, ArrayLike], *, title: str, x_label: str, y_label: str, log_y: bool = False
) -> Figure:
    """Curves over one axis, at most eight."""
    figure, axes = new_figure((7, 4))
    for (name, y), (colour, dash) in zip(curves.items(), STYLES, strict=False):
        axes.plot(x, y, color=colour, linestyle=dash, linewidth=2, label=name)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    if log_y:
        axes.set_yscale("log")
    legend(axes)
    return figure


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, classes: Sequence[str], title: str) -> Figure:
    """Counts of true against predicted classes; rows are shaded by their shares."""
    n = len(classes)
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (np.asarray(truth), np.asarray(predicted)), 1)
    side = max(4.0, 0.5 * n + 1.5)
    figure, axes = new_figure((side, side))
    axes.grid(visible=False)
    axes.imshow(counts / counts.sum(1, keepdims=True).clip(1), cmap="Blues", vmin=0, vmax=1)
    if n <= 20:
        for row, column in np.argwhere(counts):
            dark = counts[row, column] > 0.5 * counts[row].sum()
            colour = "white" if dark else INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks(range(n), classes, rotation=90 if max(map(len, classes)) > 3 else 0)
        axes.set_yticks(range(n), classes)
    axes.set(title=title, xlabel="Predicted", ylabel="True")
    return figure


def predictions(truth: ArrayLike, predicted: ArrayLike, title: str) -> Figure:
    """Predicted against true numbers; the diagonal is where they agree."""
    figure, axes = new_figure((5, 5))
    x, y = np.asarray(truth), np.asarray(predicted)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=":")
    axes.scatter(x, y, s=14, color=BLUE, alpha=0.6)
    axes.set(title=title, xlabel="True", ylabel="Predicted")
    return figure
