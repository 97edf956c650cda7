"""Monitors of a collapse: their values for equal features, for evenly spread ones, and by loops."""

import math

import pytest
import torch

from agentlib.metrics.features import alignment, effective_rank, spread, uniformity


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def circle(n):
    angle = 2.0 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_a_collapse_has_no_spread_no_rank_and_no_uniformity():
    same = random(1, 8).expand(20, -1)
    assert float(spread(same)) == pytest.approx(0.0, abs=1e-9)
    assert float(effective_rank(same)) == 0.0
    assert float(uniformity(same)) == pytest.approx(0.0, abs=1e-9)
    assert float(alignment(same, same)) == pytest.approx(0.0, abs=1e-9)


def test_directions_that_fill_the_sphere():
    """Lengths do not count; views that have nothing in common are 2 apart on average."""
    first, second = random(2, 5_000, 16).unbind()
    assert float(spread(first * random(5_000, 1, seed=1).abs())) == pytest.approx(1.0, abs=0.01)
    assert float(alignment(first, second)) == pytest.approx(2.0, abs=0.03)
    assert float(alignment(first, -3.0 * first)) == pytest.approx(4.0, abs=1e-9)


def test_uniformity_of_the_circle():
    """Over all pairs, each with itself too, the mean of exp(-2 |u - v|^2) is e^-4 I_0(4): a sum equals the integral."""
    n, mean = 40, math.exp(-4.0) * float(torch.special.i0(torch.tensor(4.0, dtype=torch.float64)))
    expected = math.log((n * mean - 1.0) / (n - 1))
    assert float(uniformity(circle(n))) == pytest.approx(expected, abs=1e-12)
    assert float(uniformity(5.0 * circle(n))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("directions", [1, 3, 6])
def test_the_rank_is_the_number_of_equal_directions(directions):
    basis = torch.eye(8, dtype=torch.float64)[:directions]
    features = torch.cat([basis, -basis]) @ torch.linalg.qr(random(8, 8))[0] + random(8, seed=1)
    assert float(effective_rank(features)) == pytest.approx(directions, abs=1e-9)
