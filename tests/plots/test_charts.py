"""Pictures show what they were given."""

from typing import Any

import numpy as np
import torch

from agentlib.plots import charts


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
