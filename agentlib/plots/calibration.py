"""Reliability diagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from agentlib.metrics.calibration import Reliability
from agentlib.plots.pictures import BLUE, INK, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reliability_diagram(models: dict[str, Reliability], title: str = "Reliability") -> Figure:
    """Accuracy against confidence for one or two models; on the diagonal a model is as often right as it says.

    Args:
        models: by the name for the legend.
        title: above the picture.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
        ValueError: more than two models.
    """
    if not 1 <= len(models) <= 2:
        raise ValueError(f"a reliability diagram holds one or two models, not {len(models)}")
    figure, (axes, below) = new_figure((5.5, 6.5), rows=2, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":", label="as often right as it says")
    for (name, found), colour, marker in zip(models.items(), (BLUE, ORANGE), ("o", "s"), strict=False):
        seen = found.counts > 0
        label = f"{name}: ECE {found.ece:.3f}"
        axes.plot(found.confidence[seen], found.accuracy[seen], color=colour, marker=marker, label=label)
        widths = np.diff(found.edges)
        shares = found.counts / found.counts.sum()
        below.bar(found.edges[:-1], shares, widths, align="edge", color=colour, alpha=0.5)
    axes.set(title=title, xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    axes.legend(frameon=False)
    below.set(xlim=(0, 1), xlabel="Confidence", ylabel="Share")
    return figure
