"""Measures of samples against closed forms, trusted implementations, and what they must say of the truth."""

import math

import numpy as np
import pytest
import torch

from agentlib.data.toys import EIGHT_DEVIATION, eight_centers, eight_gaussians
from agentlib.metrics.samples import (
    agreement,
    frechet_distance,
    modes,
    nearest_neighbor_accuracy,
    pixel_deviation,
    squared_mmd,
    wasserstein,
)
from agentlib.plots.charts import density, image_grid
from agentlib.plots.pictures import save


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_modes_of_the_truth():
    found = modes(eight_gaussians(40_000).x, eight_centers(), EIGHT_DEVIATION)
    assert found.covered(0.1) == 8
    assert found.within == pytest.approx(1 - math.exp(-4.5), abs=0.002)
    assert found.spread == pytest.approx(1.0, abs=0.01)
    assert sum(found.shares) == pytest.approx(found.within)
    assert found.smallest == pytest.approx(found.within / 8, abs=0.01)


def test_modes_of_what_is_missing_too_narrow_or_between():
    centers = eight_centers()
    narrow = modes(centers[:2].repeat(50, 1) + 0.03 * noise(100, 2), centers, 0.1)
    assert narrow.covered() == 2
    assert narrow.within == 1.0
    assert narrow.spread == pytest.approx(0.3, abs=0.05)
    assert narrow.smallest == 0.0
    between = modes(torch.zeros(10, 2), centers, 0.1)
    assert between.within == 0.0
    assert between.spread == pytest.approx(2.0 / math.sqrt(2) / 0.1)


def test_nearest_neighbours():
    real, same, shifted = noise(400, 3), noise(400, 3, seed=1), noise(400, 3, seed=2) + 10
    assert nearest_neighbor_accuracy(real, same) == pytest.approx(0.5, abs=0.06)
    assert nearest_neighbor_accuracy(real, shifted) == 1.0
    assert nearest_neighbor_accuracy(real, real + 1e-4) == 0.0  # copies
    with pytest.raises(ValueError, match="not 400 and 399"):
        nearest_neighbor_accuracy(real, same[:399])


def test_nearest_neighbours_are_scikit_learn_s():
    neighbors = pytest.importorskip("sklearn.neighbors")
    selection = pytest.importorskip("sklearn.model_selection")
    real, fake = noise(60, 2), noise(60, 2, seed=1) * 1.5
    x, y = torch.cat([real, fake]).numpy(), np.repeat([0, 1], 60)
    scores = selection.cross_val_score(neighbors.KNeighborsClassifier(1), x, y, cv=selection.LeaveOneOut())
    assert nearest_neighbor_accuracy(real, fake) == pytest.approx(scores.mean())


def test_mmd_is_its_definition_and_without_bias():
    x, y = noise(20, 2).double(), noise(30, 2, seed=1).double() + 1

    def kernel(a, b):
        return math.exp(-float((a - b).square().sum()) / (2 * 0.7**2))

    pairs = [[kernel(a, b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j] for one in (x, y)]
    expected = np.mean(pairs[0]) + np.mean(pairs[1]) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert squared_mmd(x, y, bandwidth=0.7) == pytest.approx(float(expected))
    null = [squared_mmd(noise(100, 2, seed=2 * s), noise(100, 2, seed=2 * s + 1)) for s in range(30)]
    assert abs(np.mean(null)) < 3 * np.std(null) / math.sqrt(30)
    assert squared_mmd(noise(100, 2), noise(100, 2, seed=1) + 1) > 10 * np.std(null)


def test_wasserstein_is_exact():
    stats = pytest.importorskip("scipy.stats")
    x, y = noise(50, 1), noise(50, 1, seed=1) * 2 + 1
    assert wasserstein(x, y) == pytest.approx(stats.wasserstein_distance(x[:, 0], y[:, 0]))
    points = noise(50, 1, 2, 2)
    assert wasserstein(points, points[torch.randperm(50)]) == pytest.approx(0.0, abs=1e-9)
    assert wasserstein(points, points + 3) == pytest.approx(6.0, rel=1e-4)  # a translation by (3, 3, 3, 3)
    with pytest.raises(ValueError, match="not 50 and 49"):
        wasserstein(x, y[:49])


def test_verdicts_on_labels():
    label = torch.tensor([0, 0, 1, 1])
    samples = torch.tensor([[0.0], [2.0], [1.0], [1.0]])
    assert agreement(lambda x: x[:, 0].long(), samples, label) == 0.75
    assert pixel_deviation(samples, label) == pytest.approx((1.0 + 0.0) / 2)


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    for figure in (
        image_grid(torch.rand(13, 1, 8, 8), columns=5, title="digits"),
        image_grid(torch.rand(3, 3, 6, 4)),
        density(noise(500, 2), noise(500, 2, seed=1)),
    ):
        path = save(figure, tmp_path / "samples.png")
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="images"):
        image_grid(torch.rand(3, 8))
    with pytest.raises(ValueError, match=r"points \(N, 2\)"):
        density(noise(5, 3), noise(5, 3))


def test_the_frechet_distance_of_gaussians_is_that_of_the_closed_form():
    x = noise(500, 3)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky((x - x.mean(0)).T.cov())).T  # mean 0, covariance I
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
    shift = torch.tensor([1.0, -2.0, 0.0])
    turn = torch.linalg.qr(noise(3, 3, seed=1))[0]
    expected = 5.0 + float((a - b).square().sum())  # |m|^2 + |s1 - s2|^2 where the covariances commute
    assert frechet_distance((x * a) @ turn, (x * b + shift) @ turn) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-5)
    linalg = pytest.importorskip("scipy.linalg")
    p, q = noise(80, 5, seed=2), noise(90, 5, seed=3) @ noise(5, 5, seed=4)  # and where they do not
    c, d = (np.cov(y.double().numpy(), rowvar=False) for y in (p, q))
    gap = float((p.double().mean(0) - q.double().mean(0)).square().sum())
    assert frechet_distance(p, q) == pytest.approx(gap + np.trace(c + d - 2 * linalg.sqrtm(c @ d).real), rel=1e-6)
    with pytest.raises(ValueError, match=r"not \(80, 5\) and \(500, 3\)"):
        frechet_distance(p, x)
