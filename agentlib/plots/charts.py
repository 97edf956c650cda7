"""Pictures of results: bars, functions of one number, reliability, images, and points in the plane.

The functions raise ImportError where matplotlib is absent; the message names the extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from agentlib.metrics.calibration import Reliability
from agentlib.plots.pictures import BLUE, GREEN, INK, ORANGE, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SOFT = "#9aa3af"
DENSITY_BINS = 120
FEW, PALE = 10, 0.3
"""Examples of a bin of a reliability diagram below which it is drawn with this opacity."""


def bars(values: Mapping[str, float], title: str, label: str, highlight: Sequence[str] = ()) -> Figure:
    """A bar for each name, from top to bottom, with its number; those in `highlight` in colour."""
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
    """
    places, values = np.asarray(x), np.asarray(truth)
    figure, panels = new_figure((3.2 * len(places), 3), 1, len(places))
    for task, axes in enumerate(np.ravel(panels)):
        axes.plot(places[task], values[task], color=_SOFT, linewidth=3, label="truth")
        for (name, fit), colour, dash in zip(fits.items(), (BLUE, ORANGE, GREEN), ("-", "--", "-."), strict=False):
            axes.plot(places[task], np.asarray(fit)[task], color=colour, linestyle=dash, label=name)
        axes.scatter(*(np.asarray(part)[task] for part in seen), color=INK, s=14, zorder=3, label="seen")
        axes.set(title=f"task {task + 1}", xlabel="x", ylabel="y")
    legend(np.ravel(panels)[-1])
    return figure


def rows_of_images(rows: Mapping[str, Tensor], title: str, marks: Mapping[str, Sequence[bool]] | None = None) -> Figure:
    """Images `(n, C, H, W)` between 0 and 1, a row for each name; an image that is marked false gets a red frame."""
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


def reliability_diagram(models: dict[str, Reliability], title: str = "Reliability") -> Figure:
    """Accuracy against confidence for one or two models; on the diagonal a model is as often right as it says.

    Bins of fewer than FEW examples are pale: their accuracy says little.

    Args:
        models: by the name for the legend.
        title: above the picture.

    Raises:
        ValueError: more than two models.
    """
    if not 1 <= len(models) <= 2:
        raise ValueError(f"a reliability diagram holds one or two models, not {len(models)}")
    figure, (axes, below) = new_figure((7.5, 6.5), rows=2, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="as often right as it says")
    for (name, found), colour, marker in zip(models.items(), (BLUE, ORANGE), ("o", "s"), strict=False):
        seen, label = found.counts > 0, f"{name}: ECE {found.ece:.3f}"
        axes.plot(found.confidence[seen], found.accuracy[seen], color=colour, linewidth=0.8, alpha=PALE)
        for group, alpha in ((found.counts >= FEW, 1.0), (seen & (found.counts < FEW), PALE)):
            x, y = found.confidence[group], found.accuracy[group]
            label = label if alpha == 1.0 else "_"  # which the legend leaves out
            axes.plot(x, y, color=colour, marker=marker, linestyle="", alpha=alpha, label=label)
        widths = np.diff(found.edges)
        shares = found.counts / found.counts.sum()
        below.bar(found.edges[:-1], shares, widths, align="edge", color=colour, alpha=0.5)
    axes.set(title=title, xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    legend(axes)
    below.set(xlim=(0, 1), xlabel="Confidence", ylabel="Share")
    return figure


def image_grid(images: Tensor, columns: int = 10, title: str = "") -> Figure:
    """Images `(N, 1, H, W)` or `(N, 3, H, W)` between 0 and 1, row by row, framed by thin lines of grey.

    Raises:
        ValueError: no images.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"a grid shows images (N, 1 or 3, H, W), not {tuple(images.shape)}")
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    blank = images.new_full((rows * columns - n, channels, height, width), 0.5)
    cells = torch.nn.functional.pad(torch.cat([images, blank]).clamp(0, 1), (1, 0, 1, 0), value=0.5)
    cells = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4)  # (C, rows, H + 1, columns, W + 1)
    sheet = torch.nn.functional.pad(cells.flatten(3).flatten(1, 2), (0, 1, 0, 1), value=0.5).movedim(0, -1)
    wide, margins = 0.6 * columns, 0.08
    figure, axes = new_figure((wide + margins, wide * len(sheet) / sheet.shape[1] + margins + 0.2 * bool(title)))
    axes.imshow(sheet.expand(-1, -1, 3).cpu().numpy(), interpolation="nearest")
    axes.set_anchor("S")
    axes.set_axis_off()
    if title:
        axes.set_title(title, loc="left", fontsize=10, color=INK)
    return figure


def density(samples: Tensor, real: Tensor) -> Figure:
    """Two pictures beside each other: the densities of samples `(N, 2)` and of real points `(M, 2)`, on one scale.

    Raises:
        ValueError: points of more or fewer than two numbers.
    """
    if samples.dim() != 2 or samples.shape[1] != 2:
        raise ValueError(f"a density is drawn of points (N, 2), not {tuple(samples.shape)}")
    low, high = real.amin(0), real.amax(0)
    margin = 0.08 * (high - low).max()
    extent = [[float(low[i] - margin), float(high[i] + margin)] for i in (0, 1)]
    figure, panels = new_figure((8, 4.2), columns=2)
    for axes, name, points in zip(panels, ("samples", "data"), (samples, real), strict=True):
        x, y = points.cpu().double().numpy().T
        axes.hist2d(x, y, bins=DENSITY_BINS, range=extent, density=True, cmap="viridis")
        axes.grid(visible=False)
        axes.set_aspect("equal")
        axes.set_title(f"{name}, {len(points):,} points", loc="left", fontsize=10, color=INK)
        axes.tick_params(colors=INK, labelsize=8)
    return figure


def points(samples: Tensor, title: str) -> Figure:
    """Points `(N, 2)` in the plane."""
    figure, axes = new_figure((5, 5))
    x, y = samples.cpu().double().numpy().T
    axes.scatter(x, y, s=4, color=BLUE, alpha=0.5, linewidths=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(f"{title}, {len(samples):,} points", loc="left", fontsize=10, color=INK)
    return figure
