"""Learning curves: the returns of training episodes against environment steps, as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from agentlib.metrics.intervals import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, apart for every kind of colour vision; the line styles hold in black and white.
_STYLES = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))
_INK = "#333333"
_GRID_POINTS = 250


class Curve(NamedTuple):
    """One training run."""

    steps: ArrayLike
    """Environment steps at the end of each episode, rising, shape (episodes,)."""
    returns: ArrayLike
    """The return of each episode, shape (episodes,)."""


def smooth(curve: Curve, grid: Floats, window: int) -> Floats:
    """The mean return of the last `window` episodes that had ended by each point of `grid`, nan before the first.

    Args:
        curve: one run.
        grid: environment steps, shape (points,).
        window: episodes; fewer are averaged at the start.

    Returns:
        Shape (points,).
    """
    ended = np.searchsorted(np.asarray(curve.steps), grid, side="right")  # (points,) episodes so far
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(curve.returns, dtype=np.float64))])
    first = np.maximum(ended - window, 0)
    counts = np.where(ended > 0, ended - first, 1)
    return np.where(ended > 0, (sums[ended] - sums[first]) / counts, np.nan)


def learning_curves(sides: Mapping[str, Sequence[Curve]], *, title: str, window: int = 20) -> Figure:
    """Draw each side's runs as thin lines and their mean as a thick one.

    Args:
        sides: the runs of each side, by the name for the legend; at most four sides.
        title: above the picture.
        window: episodes that each point averages.

    Raises:
        ImportError: if matplotlib is absent, naming the extra.
        ValueError: if no side has a finished episode, or there are more than four sides.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("learning curves need matplotlib: pip install 'agentlib-rl[plots]'") from error
    if len(sides) > len(_STYLES):
        raise ValueError(f"a picture holds at most {len(_STYLES)} sides, not {len(sides)}")
    ends = [np.asarray(curve.steps)[-1] for curves in sides.values() for curve in curves if np.size(curve.steps)]
    if not ends:
        raise ValueError("no training episode has ended, so there is no curve to draw")
    grid = np.linspace(0, float(max(ends)), _GRID_POINTS)
    figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, curves), (colour, dash) in zip(sides.items(), _STYLES, strict=False):
        lines = np.stack([smooth(curve, grid, window) for curve in curves])  # (runs, points)
        axes.plot(grid, lines.T, color=colour, linewidth=0.9, alpha=0.35)
        runs = f"mean of {len(curves)} seeds" if len(curves) > 1 else "1 seed"
        axes.plot(grid, lines.mean(axis=0), color=colour, linestyle=dash, linewidth=2.4, label=f"{name} ({runs})")
    _label(axes, title, window)
    return figure


def png(figure: Figure) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()


def _label(axes: Axes, title: str, window: int) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=_INK, pad=10)
    axes.set_xlabel("Environment steps", fontsize=11, color=_INK)
    axes.set_ylabel(f"Training return\n(last {window} episodes, exploring)", fontsize=11, color=_INK)
    axes.xaxis.set_major_formatter(lambda steps, _: f"{steps:,.0f}")
    axes.set_xlim(left=0)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=10, labelcolor=_INK)
