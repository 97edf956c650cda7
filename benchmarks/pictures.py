"""Draws what the documents show, from the numbers in docs/results: `make results`, or this file alone."""

import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from agentlib.metrics import t_interval
from benchmarks.experiments import ROOT, load

PICTURES = ROOT / "docs" / "pictures"
INK, PLAIN, OPTION, GRID = "#333333", "#8a8a8a", "#0072B2", "#dddddd"


class Panel(NamedTuple):
    """One option, or several, on one task."""

    experiment: str
    title: str
    axis: str
    ways: dict[str, str]
    """Numbers of the experiment and their names, the one to start from first."""
    logarithmic: bool = False


HEADS = {"plain": "plain", "dueling": "dueling", "quantile": "quantiles"}
PANELS = (
    Panel("masks_taxi", "Masks: Taxi", "return", {"without": "without", "with": "masks"}),
    Panel("branches_dials", "Branches: six dials", "return", {"flat": "one list", "branches": "branches"}),
    Panel(
        "n_step_prioritized_corridor",
        "A rare reward: Corridor",
        "updates to the solution (fewer is better)",
        {"plain": "plain", "n_steps": "n_steps=5", "prioritized": "prioritized", "both": "both"},
        logarithmic=True,
    ),
    Panel(
        "n_steps_long_corridor",
        "A long way back: Corridor of 30 cells",
        "updates to the solution (fewer is better)",
        {"plain": "plain", "n_steps": "n_steps=5"},
        logarithmic=True,
    ),
    Panel("heads_cartpole", "Heads: CartPole", "return", HEADS),
    Panel("heads_lunarlander", "Heads: LunarLander", "return", HEADS),
    Panel(
        "rainbow_catch",
        "All options: Catch",
        "return",
        {"sb3": "SB3's DQN", "dqn": "plain", "rainbow": "rainbow"},
    ),
)


def q_learning_options() -> Figure | None:
    """A panel per task, a row per way to learn it: the seeds, their mean, and its 95% interval.

    What was not measured yet is left out; None if that is all.
    """
    found = [(panel, list(load(panel.experiment)["seeds"].values())) for panel in PANELS]
    there = [(panel, seeds) for panel, seeds in found if seeds and all(way in seeds[0] for way in panel.ways)]
    if not there:
        return None
    columns = min(len(there), 2)
    rows = -(-len(there) // columns)
    figure = Figure(figsize=(4.5 * columns, 1.9 * rows), layout="constrained", facecolor="white")
    FigureCanvasSVG(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (panel, seeds) in zip(grid.flat, there, strict=False):
        draw_panel(axes, panel, seeds)
    for axes in grid.flat[len(there) :]:
        axes.set_visible(False)
    return figure


def draw_panel(axes: Axes, panel: Panel, seeds: Sequence[dict[str, float]]) -> None:
    for row, number in enumerate(panel.ways):
        values = np.array([seed[number] for seed in seeds])
        colour = OPTION if row else PLAIN
        low, high = t_interval(values)
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [row, row], color=colour, linewidth=7, alpha=0.3, solid_capstyle="butt")
        axes.plot(values, np.full(len(values), row), "o", color=colour, markersize=4.5, alpha=0.7, markeredgewidth=0)
        axes.plot([values.mean()] * 2, [row - 0.32, row + 0.32], color=colour, linewidth=2)
    axes.set_yticks(range(len(panel.ways)), list(panel.ways.values()))
    axes.set_ylim(len(panel.ways) - 0.4, -0.6)
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(panel.axis, fontsize=9, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw() -> list[str]:
    """Writes the pictures of which anything was measured, and gives their paths."""
    figure = q_learning_options()
    if figure is None:
        return []
    return [save(figure, "q_learning_options")]


def save(figure: Figure, name: str) -> str:
    """Writes a picture of the documents; its path."""
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / f"{name}.svg"
    # Without a date and with fixed names, so that the same numbers give the same file.
    settings: dict[str, Any] = {"svg.hashsalt": "agentlib", "svg.fonttype": "path"}
    with matplotlib.rc_context(settings):
        figure.savefig(path, metadata={"Date": None})
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return str(path)


if __name__ == "__main__":
    print("\n".join(draw()) or "nothing was measured yet: make results")
