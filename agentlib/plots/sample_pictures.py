"""Pictures of samples: a grid of images, and points in the plane beside the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agentlib.backbones.files import replacing
from agentlib.plots.curves import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#333333"
DENSITY_BINS = 120


def image_grid(images: Tensor, columns: int = 10, title: str = "") -> Figure:
    """Images `(N, 1, H, W)` or `(N, 3, H, W)` between 0 and 1, row by row, on thin lines of grey.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
        ValueError: no images.
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"a grid shows images (N, 1 or 3, H, W), not {tuple(images.shape)}")
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    blank = images.new_full((rows * columns - n, channels, height, width), 0.5)
    cells = torch.nn.functional.pad(torch.cat([images, blank]).clamp(0, 1), (1, 0, 1, 0), value=0.5)
    cells = cells.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)  # (rows, H + 1, columns, W + 1, C)
    sheet = cells.reshape(rows * (height + 1), columns * (width + 1), channels)
    figure = _figure((columns * 0.6, rows * 0.6 * height / width + 0.3 * bool(title)))
    axes = figure.add_subplot()
    axes.imshow(sheet.expand(-1, -1, 3).cpu().numpy(), interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title, loc="left", fontsize=10, color=_INK)
    return figure


def density(samples: Tensor, real: Tensor) -> Figure:
    """Two pictures beside each other: the densities of samples `(N, 2)` and of real points `(M, 2)`, on one scale.

    Raises:
        ImportError: matplotlib is absent; the message names the extra.
        ValueError: points of more or fewer than two numbers.
    """
    if samples.dim() != 2 or samples.shape[1] != 2:
        raise ValueError(f"a density is drawn of points (N, 2), not {tuple(samples.shape)}")
    low, high = real.amin(0), real.amax(0)
    margin = 0.08 * (high - low).max()
    extent = [[float(low[i] - margin), float(high[i] + margin)] for i in (0, 1)]
    figure = _figure((8, 4.2))
    for place, (name, points) in enumerate((("samples", samples), ("data", real))):
        axes: Any = figure.add_subplot(1, 2, place + 1)
        x, y = points.cpu().double().numpy().T
        axes.hist2d(x, y, bins=DENSITY_BINS, range=extent, density=True, cmap="viridis")
        axes.set_aspect("equal")
        axes.set_title(f"{name}, {len(points):,} points", loc="left", fontsize=10, color=_INK)
        axes.tick_params(colors=_INK, labelsize=8)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Writes the picture as PNG, whole or not at all; returns its path."""
    with replacing(path) as temporary:
        temporary.write_bytes(png(figure))
    return path


def _figure(size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'agentlib-rl[plots]'") from error
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure
