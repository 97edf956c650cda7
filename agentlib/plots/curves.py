"""Learning curves: the returns of training episodes against environment steps, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from agentlib.metrics.intervals import Floats
from agentlib.plots.pictures import INK, STYLES, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GRID_POINTS = 250
"""Environment steps at which each curve is drawn."""


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


def evaluation_curves(
    sides: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], goal: float, *, title: str
) -> Figure:
    """Draw the mean returns of evaluations against seconds of training, a line for each run.

    Args:
        sides: seconds and returns of each run, by the name of its side for the legend; at most eight sides.
        goal: the return at which runs end, a dotted line.
        title: above the picture.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    figure, axes = new_figure((8, 4.5))
    for (name, runs), (colour, dash) in zip(sides.items(), STYLES, strict=False):
        for number, (seconds, returns) in enumerate(runs):
            label = name if number == 0 else None
            axes.plot(seconds, returns, color=colour, linestyle=dash, marker="o", markersize=3, label=label)
    axes.axhline(goal, color=INK, linestyle=":", linewidth=1)
    _finish(axes, title, "Seconds of training, start-up included", "Mean return of an evaluation")
    return figure


def return_curves(curves: Mapping[str, Sequence[Sequence[float]]], title: str = "Learning curve") -> Figure:
    """Draw mean returns of one run against its environment steps: evaluations, and training episodes.

    Args:
        curves: steps and returns by the name for the legend, the most important first.
        title: above the picture.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    figure, axes = new_figure((8, 4.5))
    for number, ((name, (steps, returns)), (colour, dash)) in enumerate(zip(curves.items(), STYLES, strict=False)):
        marker = "o" if len(steps) < 2 else ""
        width, alpha = (2.4, 1.0) if number == 0 else (1.2, 0.6)
        axes.plot(steps, returns, color=colour, linestyle=dash, marker=marker, linewidth=width, alpha=alpha, label=name)
    _finish(axes, title, "Environment steps", "Mean return")
    return figure


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title, labels and legend, as all curves have them; the legend stands beside the curves."""
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=10)
    axes.set_xlabel(x_label, fontsize=11, color=INK)
    axes.set_ylabel(y_label, fontsize=11, color=INK)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set_xlim(left=0)
    axes.tick_params(colors=INK, labelsize=10)
    legend(axes)


def learning_curves(sides: Mapping[str, Sequence[Curve]], *, title: str, window: int = 20, y_label: str = "") -> Figure:
    """Draw each side's runs as thin lines and their mean as a thick one.

    Args:
        sides: the runs of each side, by the name for the legend; at most eight sides.
        title: above the picture.
        window: episodes that each point averages.
        y_label: name of the values, where they are no returns of training episodes.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
        ValueError: if no side has a finished episode, or there are more than eight sides.
    """
    figure, axes = new_figure((8, 4.5))
    if len(sides) > len(STYLES):
        raise ValueError(f"a picture holds at most {len(STYLES)} sides, not {len(sides)}")
    ends = [np.asarray(curve.steps)[-1] for curves in sides.values() for curve in curves if np.size(curve.steps)]
    if not ends:
        raise ValueError("no training episode has ended, so there is no curve to draw")
    grid = np.linspace(0, float(max(ends)), GRID_POINTS)
    for (name, curves), (colour, dash) in zip(sides.items(), STYLES, strict=False):
        lines = np.stack([smooth(curve, grid, window) for curve in curves])  # (runs, points)
        axes.plot(grid, lines.T, color=colour, linewidth=0.9, alpha=0.35)
        runs = f"mean of {len(curves)} seeds" if len(curves) > 1 else "1 seed"
        axes.plot(grid, lines.mean(axis=0), color=colour, linestyle=dash, linewidth=2.4, label=f"{name} ({runs})")
    _finish(axes, title, "Environment steps", y_label or f"Training return\n(last {window} episodes, exploring)")
    return figure
