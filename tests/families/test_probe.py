"""Probes: the protocol's parts, and the floors that were measured with other code."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agentlib.core.recipe import Problem
from agentlib.data.augmentation import nudged
from agentlib.families.building import predicted
from agentlib.learners.self_supervised.simclr import RECIPE, SimCLRConfig
from agentlib.metrics.probes import few_labels, linear_probe, neighbour_probe


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
    found = nudged(dot)
    assert found.shape == (5, 1, 3, 3)
    places = {tuple(image[0].nonzero()[0].tolist()) for image in found}
    assert places == {(1, 1), (2, 1), (0, 1), (1, 2), (1, 0)}
    corner = torch.zeros(1, 1, 3, 3)
    corner[0, 0, 0, 0] = 1.0
    assert [int(image.sum()) for image in nudged(corner)] == [1, 1, 0, 1, 0]
    two = torch.rand(2, 1, 3, 3)
    assert torch.equal(nudged(two)[:2], two), "all images as they are come first"


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))

    def predict(self, x):
        return self.layers(x)


def test_features_leave_the_encoder_as_it_was():
    encoder: Any = Dropping().train()
    x = torch.rand(2500, 1, 2, 2)
    features = predicted(encoder, x)
    assert encoder.training
    expected = encoder.layers[2](x.flatten(1))  # dropout was off
    np.testing.assert_allclose(features.numpy(), expected.detach().numpy(), atol=1e-6)


def test_probe_of_perfect_and_of_useless_features():
    labels = np.arange(200) % 4
    perfect, useless = 10.0 * np.eye(4, dtype=np.float32)[labels], np.zeros((200, 2), np.float32)
    rows = np.stack([few_labels(labels, 2, np.random.default_rng(seed)) for seed in range(3)])
    assert np.array_equal(linear_probe(perfect[rows], labels[rows], perfect, labels), [1.0, 1.0, 1.0])
    assert np.array_equal(linear_probe(useless[rows], labels[rows], useless, labels), [0.25, 0.25, 0.25])
    assert np.array_equal(neighbour_probe(perfect[rows], labels[rows], perfect, labels), [1.0, 1.0, 1.0])


@pytest.mark.slow
def test_floors_on_digits():
    """Measured before, with code of its own: .496 and .601 from pixels, .709-.722 and .912-.921 with moved labels."""
    judge: Any = RECIPE.family.assemble(RECIPE, Problem(data="digits", steps=1, config=SimCLRConfig())).judge
    means = judge.floors()
    assert means["pixels"] == pytest.approx(0.50, abs=0.03)
    assert means["pixels_1nn"] == pytest.approx(0.60, abs=0.03)
    assert means["nudged_labels"] == pytest.approx(0.715, abs=0.03)
    assert means["nudged_labels_1nn"] == pytest.approx(0.915, abs=0.025)
