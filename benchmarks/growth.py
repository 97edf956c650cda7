"""How cost grows, a picture for each of five sizes: `make bench`, or `python benchmarks/growth.py`.

The numbers are kept in docs/benchmarks/growth.json, and docs/pictures/growth.svg is drawn from there. One thread;
nothing else may run meanwhile.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import gymnasium
import numpy as np
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from agentlib.core.host import torch_threads
from agentlib.learners import run
from agentlib.plots.report import provenance
from benchmarks.experiments import ROOT
from benchmarks.pictures import GRID, INK, OPTION, PLAIN, save
from benchmarks.speed import DEFAULTS, dqn_job, each, sampling

KEPT = ROOT / "docs" / "benchmarks" / "growth.json"
SAMPLE, STEPS = 256, 256


class Fixed(gymnasium.Env[Any, Any]):
    """Episodes of one length, and next to no work of its own."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(2)

    def __init__(self, length: int) -> None:
        self.length, self.steps = length, 0
        self.seen = np.zeros(4, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.seen, {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.seen, 1.0, self.steps == self.length, False, {}


def update(**settings: Any) -> float:
    """Seconds of one update, sampling included."""
    job = dqn_job(DEFAULTS | {"batch_size": 64, "learning_starts": 5_000} | settings, "CartPole-v1", 1_000_000, 0)
    updates = run(job.learner, job.source, 1_000_000, compile=True)
    next(updates)
    job.source.updates_due = 10**9  # no more steps of the environment
    return each(partial(next, updates), 100)


def sample(entries: int, prioritized: bool) -> float:
    """Seconds of a sample; of a prioritized one, with the priorities that come back."""
    return each(partial(next, sampling(prioritized, entries)), 200)


def step(env: Any, n_envs: int = 1) -> float:
    """Seconds of a step of one environment: acting, storing and resetting included."""
    settings = DEFAULTS | {"train_freq": STEPS, "learning_starts": 0, "exploration_fraction": 1e-9}
    job = dqn_job(settings, env, 1_000_000, 0, n_envs)
    return each(job.source.collect, 20) / STEPS


class Line(NamedTuple):
    """One line of a picture."""

    name: str
    measure: Callable[[int], float]
    sizes: tuple[int, ...]


class Picture(NamedTuple):
    """One size, and what grows with it."""

    size: str
    cost: str
    lines: tuple[Line, ...]


def batch_size(n: int) -> float:
    return update(batch_size=n)


def width(n: int) -> float:
    return update(net_arch=[n, n])


def environments(n: int) -> float:
    return step("CartPole-v1", n)


def episode(n: int) -> float:
    return step(Fixed(n))


BUFFERS = (10_000, 100_000, 1_000_000)
GROWTH = (
    Picture("transitions in a batch", "µs of an update", (Line("", batch_size, (16, 64, 256, 1_024)),)),
    Picture("units in each of two layers", "µs of an update", (Line("", width, (16, 64, 256, 1_024)),)),
    Picture(
        "transitions in the buffer",
        f"µs of a sample of {SAMPLE}",
        (
            Line("uniform", partial(sample, prioritized=False), BUFFERS),
            Line("prioritized, and its priorities", partial(sample, prioritized=True), BUFFERS),
        ),
    ),
    Picture("environments side by side", "µs of a step of one", (Line("", environments, (1, 4, 16, 64)),)),
    Picture("steps in an episode", "µs of a step", (Line("", episode, (10, 100, 1_000, 10_000)),)),
)
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


def measured() -> list[list[list[float]]]:
    """Microseconds of each picture, line and size."""
    with torch_threads(1):
        return [[[1e6 * line.measure(n) for n in line.sizes] for line in picture.lines] for picture in GROWTH]


def figure_of(costs: list[list[list[float]]]) -> Figure:
    """The five pictures; a dashed line is cost in proportion to size."""
    figure = Figure(figsize=(13.5, 2.9), layout="constrained", facecolor="white")
    FigureCanvasSVG(figure)
    for axes, picture, lines in zip(figure.subplots(1, len(GROWTH)), GROWTH, costs, strict=True):
        draw_picture(axes, picture, lines)
    return figure


def draw_picture(axes: Axes, picture: Picture, costs: list[list[float]]) -> None:
    top = max(map(max, costs))
    for line, cost, colour in zip(picture.lines, costs, (OPTION, PLAIN), strict=False):
        axes.plot(line.sizes, cost, "o-", color=colour, markersize=4.5, linewidth=1.5, label=line.name)
    sizes = np.array(picture.lines[0].sizes, float)
    axes.plot(sizes, costs[0][-1] * sizes / sizes[-1], "--", color=GRID, linewidth=1.2, zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{int(size):,}" for size in sizes], fontsize=8)
    axes.minorticks_off()
    low, high = min(map(min, costs)), top
    ticks = [
        tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if low / 2 <= tick <= 2 * high
    ]
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=8)
    axes.set_ylim(low / 2.2, high * 2.2)
    axes.set_xlabel(picture.size, fontsize=9, color=INK)
    axes.set_title(picture.cost, loc="left", fontsize=9, color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.tick_params(colors=INK)
    if len(picture.lines) > 1:
        axes.legend(fontsize=8, frameon=False, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def table(costs: list[list[list[float]]]) -> list[str]:
    """One line of text for each line of the pictures; a slope of 1 is cost in proportion to size."""
    rows = []
    for picture, lines in zip(GROWTH, costs, strict=True):
        for line, cost in zip(picture.lines, lines, strict=True):
            pairs = ", ".join(f"{size:,}: {value:,.3g}" for size, value in zip(line.sizes, cost, strict=True))
            slope = np.log(cost[-1] / cost[0]) / np.log(line.sizes[-1] / line.sizes[0])
            of = f" ({line.name})" if line.name else ""
            rows.append(f"{picture.cost} by {picture.size}{of}: {pairs}; slope {slope:.2f}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="only draw what was measured before")
    if not parser.parse_args().draw:
        KEPT.write_text(json.dumps({"costs": measured(), **provenance()}, indent=1) + "\n")
    costs = json.loads(KEPT.read_text())["costs"]
    save(figure_of(costs), "growth")
    print("\n".join(table(costs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
