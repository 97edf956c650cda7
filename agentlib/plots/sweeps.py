"""Pictures of a search for hyperparameters: its history, and its trials on parallel axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from agentlib.plots.pictures import BLUE, GREY, INK, ORANGE, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def search_history(
    completed: Mapping[int, float], pruned: Mapping[int, float], label: str, lower_is_better: bool = False
) -> Figure:
    """The value of each trial by its number, and the best so far.

    Args:
        completed, pruned: values by the number of the trial.
        label: of the values.
        lower_is_better: whether the best is the lowest.
    """
    figure, axes = new_figure((8, 4))
    axes.scatter(list(completed), list(completed.values()), color=BLUE, s=22, label="completed", zorder=3)
    axes.scatter(list(pruned), list(pruned.values()), color=GREY, s=22, marker="x", label="pruned", zorder=3)
    numbers = sorted(completed)
    running = (np.minimum if lower_is_better else np.maximum).accumulate([completed[number] for number in numbers])
    axes.step(numbers, running, where="post", color=ORANGE, linewidth=2, label="best so far")
    axes.set(title="History of the search", xlabel="Trial", ylabel=label)
    legend(axes)
    return figure


def parallel_coordinates(
    settings: Sequence[Mapping[str, Any]], values: Sequence[float], label: str, log: Sequence[str] = ()
) -> Figure:
    """A line for each trial through its hyperparameters, each on an axis of its own, coloured by the trial's value.

    Args:
        settings: of each trial, all with the same names.
        values: of each trial.
        label: of the values.
        log: hyperparameters whose axis is logarithmic.
    """
    from matplotlib.colors import Normalize

    columns = {name: [one[name] for one in settings] for name in settings[0]} | {label: list(values)}
    figure, axes = new_figure((max(6.0, 1.5 * len(columns)), 4.5))
    places = np.stack([_places(column, name in log) for name, column in columns.items()], 1)  # (trials, columns)
    scale = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1.0)
    from matplotlib import colormaps

    for line, value in sorted(zip(places, values, strict=True), key=lambda pair: pair[1]):
        axes.plot(range(len(columns)), line, color=colormaps["viridis"](scale(value)), linewidth=1.2, alpha=0.8)
    for number, column in enumerate(columns.values()):
        axes.axvline(number, color=INK, linewidth=0.8)
        for place, text in _marks(column):
            axes.annotate(text, (number, place), xytext=(3, 0), textcoords="offset points", fontsize=7, color=INK)
    axes.set_xticks(range(len(columns)), [name.replace("_", "\n") for name in columns], fontsize=8)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set(title="Trials, brighter where the value is higher", xlim=(-0.2, len(columns) - 0.4))
    return figure


def _is_numeric(column: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in column)


def _places(column: Sequence[Any], is_log: bool) -> np.ndarray[Any, Any]:
    """Heights between 0 and 1."""
    if _is_numeric(column):
        numbers = np.asarray(column, np.float64)
        numbers = np.log(numbers) if is_log and bool((numbers > 0).all()) else numbers
    else:
        kinds = sorted({str(value) for value in column})
        numbers = np.array([float(kinds.index(str(value))) for value in column])
    width = float(np.ptp(numbers))
    return (numbers - numbers.min()) / width if width else np.full(len(numbers), 0.5)


def _marks(column: Sequence[Any]) -> list[tuple[float, str]]:
    """Heights and texts beside an axis: both ends of numbers, and each choice of others."""
    if _is_numeric(column):
        low, high = min(column), max(column)
        return [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if high > low else [(0.5, f"{low:.3g}")]
    kinds = sorted({str(value) for value in column})
    return [(number / (len(kinds) - 1) if len(kinds) > 1 else 0.5, kind[:14]) for number, kind in enumerate(kinds)]
