"""Pictures of results: bars beside each other, functions of one number, and rows of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from agentlib.plots.pictures import BLUE, GREEN, INK, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOFT = "#9aa3af"


def bars(values: Mapping[str, float], title: str, label: str, highlight: Sequence[str] = ()) -> Figure:
    """A bar for each name, from top to bottom, with its number; those in `highlight` in colour.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    figure, axes = new_figure((7, 0.6 + 0.4 * len(values)))
    names = [name.replace("_", " ") for name in values]
    patches = axes.barh(names, list(values.values()), color=[BLUE if name in highlight else _SOFT for name in values])
    axes.bar_label(patches, fmt="%.3f", padding=4, fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title=title, xlabel=label)
    return figure


def functions(
    x: ArrayLike, truth: ArrayLike, fits: Mapping[str, ArrayLike], seen: tuple[ArrayLike, ArrayLike]
) -> Figure:
    """Functions of one number, a panel for each task: the truth, the fits, and the points to learn from.

    Args:
        x: `(tasks, n)`, rising in each row.
        truth: `(tasks, n)`.
        fits: by name, each `(tasks, n)`; at most three.
        seen: x and y, each `(tasks, m)`.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    places, values = np.asarray(x), np.asarray(truth)
    figure, panels = new_figure((3.2 * len(places), 3), 1, len(places))
    for task, axes in enumerate(np.ravel(panels)):
        axes.plot(places[task], values[task], color=_SOFT, linewidth=3, label="truth")
        for (name, fit), colour, dash in zip(fits.items(), (BLUE, ORANGE, GREEN), ("-", "--", "-."), strict=False):
            axes.plot(places[task], np.asarray(fit)[task], color=colour, linestyle=dash, label=name)
        axes.scatter(*(np.asarray(part)[task] for part in seen), color=INK, s=14, zorder=3, label="seen")
        axes.set(title=f"task {task + 1}", xlabel="x", ylabel="y")
    np.ravel(panels)[0].legend(frameon=False, fontsize=8)
    return figure


def rows_of_images(rows: Mapping[str, Tensor], title: str, marks: Mapping[str, Sequence[bool]] | None = None) -> Figure:
    """Images `(n, C, H, W)` between 0 and 1, a row for each name; an image that is marked false gets a red frame.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
    """
    width = max(len(images) for images in rows.values())
    figure, grid = new_figure((max(0.55 * width, 4), 0.4 + 0.62 * len(rows)), len(rows), width)
    for line, (name, images) in zip(np.reshape(grid, (len(rows), width)), rows.items(), strict=True):
        right = (marks or {}).get(name, [True] * len(images))
        for axes, image, is_right in zip(line, images, right, strict=False):
            axes.grid(visible=False)
            axes.imshow(image.clamp(0.0, 1.0).movedim(0, -1).expand(-1, -1, 3).cpu().numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(True)
                spine.set(color="#cccccc" if is_right else ORANGE, linewidth=0.5 if is_right else 2.5)
        for axes in line[len(images) :]:
            axes.set_axis_off()
        line[0].set_ylabel(name, fontsize=8, color=INK, rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=10, color=INK, x=0.02, ha="left")
    return figure
