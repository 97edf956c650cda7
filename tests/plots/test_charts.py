"""Pictures show what they were given."""

import io
from typing import Any

import numpy as np
import pytest
import torch

from agentlib.metrics.calibration import reliability_of
from agentlib.plots import charts, curves


def test_bars():
    figure = charts.bars({"first_name": 0.25, "second": 0.75}, "title", "accuracy", ["second"])
    (axes,) = figure.axes
    patches: list[Any] = list(axes.patches)
    assert [bar.get_width() for bar in patches] == [0.25, 0.75]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first name", "second"]
    assert axes.patches[0].get_facecolor() != axes.patches[1].get_facecolor()


def test_functions():
    x = np.tile(np.linspace(0, 1, 5), (2, 1))
    figure = charts.functions(x, 2 * x, {"fit": 3 * x}, (x[:, :2], x[:, :2]))
    assert len(figure.axes) == 2
    truth, fit = figure.axes[1].lines
    assert np.array_equal(truth.get_ydata(), 2 * x[1])
    assert np.array_equal(fit.get_ydata(), 3 * x[1])


def test_rows_of_images():
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    rows = {"all": images, "two": images[:2].expand(-1, 3, -1, -1)}
    figure = charts.rows_of_images(rows, "title", {"two": [True, False]})
    shown: list[Any] = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(shown) == 5
    np.testing.assert_allclose(shown[1][..., 0], images[1, 0])
    widths = [axes.spines["left"].get_linewidth() for axes in figure.axes if axes.images]
    assert widths == [0.5, 0.5, 0.5, 0.5, 2.5]


def test_bins_of_few_examples_are_pale_and_legends_beside_the_curves():
    confidence = torch.cat([torch.full((40,), 0.95), torch.full((4,), 0.55)])
    logits = torch.stack([confidence.log(), (1 - confidence).log()], 1)
    found = reliability_of(logits, torch.zeros(44, dtype=torch.int64), 1.0)
    figure = charts.reliability_diagram({"model": found})
    axes: Any = figure.axes[0]
    points = [line for line in axes.lines if line.get_marker() == "o"]
    shown = [(float(np.ravel(line.get_xdata())[0]), line.get_alpha()) for line in points]
    assert [(round(x, 2), alpha) for x, alpha in shown] == [(0.95, 1.0), (0.55, charts.PALE)]
    assert [text.get_text() for text in axes.get_legend().get_texts()][1:] == [f"model: ECE {found.ece:.3f}"]
    figure.draw_without_rendering()
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1 - 1


def test_legends_of_curves_cover_none():
    figure = curves.return_curves({"evaluation": ([0, 10], [1.0, 2.0]), "training, exploring": ([0, 10], [0.5, 1.0])})
    axes: Any = figure.axes[0]
    figure.draw_without_rendering()
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1 - 1
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Environment steps", "Mean return")
    assert axes.lines[0].get_linewidth() > axes.lines[1].get_linewidth()


@pytest.mark.parametrize(("n", "title"), [(13, "Samples"), (20, ""), (3, "Few")])
def test_a_grid_of_images_has_lines_and_margins_of_one_width(n, title):
    figure = charts.image_grid(torch.zeros(n, 1, 8, 8), columns=5, title=title)
    sheet = np.asarray(figure.axes[0].images[0].get_array())[..., 0]
    across = min(5, n)
    rows = -(-n // across)
    assert sheet.shape == (9 * rows + 1, 9 * across + 1)
    assert (sheet[::9] == 0.5).all()
    assert (sheet[:, ::9] == 0.5).all()
    assert (sheet == 0).sum() == 64 * n
    figure.savefig(io.BytesIO(), dpi=160)  # which lays it out
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., 0]  # type: ignore[attr-defined]
    grey = np.abs(drawn.astype(int) - 128) < 8
    rows_of_grey, columns_of_grey = (np.flatnonzero(grey.mean(axis) > 0.3) for axis in (1, 0))
    margins = [columns_of_grey[0], drawn.shape[1] - 1 - columns_of_grey[-1], drawn.shape[0] - 1 - rows_of_grey[-1]]
    assert max(margins) - min(margins) <= 4, margins
