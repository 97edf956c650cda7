"""Draws what the documents show, from the numbers in docs/results: `python benchmarks/pictures.py`."""

import json
import os
import sys

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from agentlib.evaluation import bootstrap_interval
from benchmarks.experiments import RESULTS, ROOT

PICTURES = ROOT / "docs" / "pictures"
INK, PLAIN, OPTION = "#333333", "#8a8a8a", "#0072B2"

PANELS = {
    "masks_taxi": ("Illegal actions: Taxi-v4", "return", {"without": "no masks", "with": "masks"}),
    "n_step_prioritized_corridor": (
        "A rare reward: Corridor",
        "updates from the first reward to the solution",
        {"plain": "plain", "n_steps": "n_steps=5", "prioritized": "prioritized", "both": "both"},
    ),
    "branches_dials": ("Six choices at once: Dials", "return", {"flat": "one list", "branches": "branches"}),
    "heads_cartpole": (
        "Heads: CartPole-v1",
        "return",
        {"plain": "plain", "dueling": "dueling", "quantile": "quantiles"},
    ),
    "heads_lunarlander": (
        "Heads: LunarLander-v3",
        "return",
        {"plain": "plain", "dueling": "dueling", "quantile": "quantiles"},
    ),
    "rainbow_catch": ("All options: Catch", "return", {"sb3": "SB3's DQN", "dqn": "plain", "rainbow": "rainbow"}),
}
"""By experiment: title, axis, and the names of its numbers, the one to start from first."""


def q_options() -> Figure:
    """A panel per task, a row per way to learn it: the seeds, their mean, and its 95% interval."""
    there = {name: panel for name, panel in PANELS.items() if (RESULTS / f"{name}.json").is_file()}
    figure = Figure(figsize=(9, 1.9 * -(-len(there) // 2)), layout="constrained", facecolor="white")
    FigureCanvasSVG(figure)
    grid = figure.subplots(-(-len(there) // 2), 2, squeeze=False)
    for axes, (name, (title, label, ways)) in zip(grid.flat, there.items(), strict=False):
        seeds = json.loads((RESULTS / f"{name}.json").read_text())["seeds"].values()
        for row, number in enumerate(ways):
            values = np.array([seed[number] for seed in seeds])
            colour = OPTION if row else PLAIN
            low, high = bootstrap_interval(values)
            axes.plot([low, high], [row, row], color=colour, linewidth=6, alpha=0.3, solid_capstyle="butt")
            axes.plot(values, np.full(len(values), row), "o", color=colour, markersize=4, alpha=0.8)
            axes.plot([values.mean()] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2)
        axes.set_yticks(range(len(ways)), ways.values(), color=INK, fontsize=9)
        axes.set_ylim(len(ways) - 0.5, -0.5)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel(label, fontsize=9, color=INK)
        axes.tick_params(colors=INK, labelsize=9)
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    for axes in grid.flat[len(there) :]:
        axes.set_visible(False)
    return figure


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / "q_options.svg"
    # Without a date and with fixed names, so that the same numbers give the same file.
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "agentlib", "svg.fonttype": "path"}):
        q_options().savefig(path, metadata={"Date": None})
    print(path)


if __name__ == "__main__":
    main()
