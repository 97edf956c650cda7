"""Probes: the protocol's parts, and the floors that were measured with other code."""

import numpy as np
import pytest
import torch
from torch import nn

from agentlib.data import Dataset, dataset, split
from agentlib.evaluation.probe import features_of, few_labels, floors, linear_probe, nudged


def test_few_labels_are_as_many_of_each_class():
    labels = np.repeat(np.arange(4), [5, 9, 7, 5])
    rows = few_labels(labels, 5, np.random.default_rng(0))
    assert np.array_equal(np.bincount(labels[rows]), [5, 5, 5, 5])
    assert len(np.unique(rows)) == len(rows)
    with pytest.raises(ValueError, match="6 labels per class cannot be drawn: a class has 5"):
        few_labels(labels, 6, np.random.default_rng(0))


def test_nudged_images_are_moved_by_one_pixel_over_zeros():
    dot = torch.zeros(1, 1, 3, 3)
    dot[0, 0, 1, 1] = 1.0
    found = nudged(Dataset(dot, torch.tensor([0]), ("dot",)))
    assert found.y is not None
    assert found.y.tolist() == [0] * 5
    places = {tuple(image[0].nonzero()[0].tolist()) for image in found.x}
    assert places == {(1, 1), (2, 1), (0, 1), (1, 2), (1, 0)}
    corner = torch.zeros(1, 1, 3, 3)
    corner[0, 0, 0, 0] = 1.0
    assert [int(image.sum()) for image in nudged(Dataset(corner)).x] == [1, 1, 0, 1, 0]


def test_features_leave_the_encoder_as_it_was():
    encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3)).train()
    x = torch.rand(2500, 1, 2, 2)
    features = features_of(encoder, x)
    assert encoder.training
    expected = encoder[2](x.flatten(1)).detach().numpy()  # dropout was off
    np.testing.assert_allclose(features, expected, atol=1e-6)


def test_probe_of_perfect_and_of_useless_features():
    y = torch.arange(200) % 4
    classes = tuple("abcd")
    x = torch.cat([10.0 * nn.functional.one_hot(y, 4).float(), torch.zeros(200, 1)], 1)
    data = Dataset(x, y, classes)
    perfect, useless = nn.Identity(), nn.Linear(5, 2)
    nn.init.zeros_(useless.weight)
    assert np.array_equal(linear_probe(perfect, data, data, per_class=2, draws=3), [1.0, 1.0, 1.0])
    assert np.array_equal(linear_probe(useless, data, data, per_class=2, draws=3), [0.25, 0.25, 0.25])
    with pytest.raises(ValueError, match="needs labels of classes"):
        linear_probe(perfect, Dataset(x), data)


@pytest.mark.slow
def test_floors_on_digits():
    """Measured before, with code of its own: .496 and .601 from pixels, .709-.722 and .912-.921 with moved labels."""
    parts = split(dataset("digits"), seed=0, validation=0.0)
    found = floors(parts.train, nudged(parts.test), draws=8)
    means = {name: scores.mean() for name, scores in found.items()}
    assert means["pixels"] == pytest.approx(0.50, abs=0.03)
    assert means["pixels_1nn"] == pytest.approx(0.60, abs=0.03)
    assert means["nudged_labels"] == pytest.approx(0.715, abs=0.03)
    assert means["nudged_labels_1nn"] == pytest.approx(0.915, abs=0.025)
