"""Rotations: what is turned and how it is labelled, the null value, and what is learned."""

import math

import pytest
import torch
from torch import nn

from agentlib.core.recipe import Problem
from agentlib.data import Dataset
from agentlib.engine import run
from agentlib.learners.self_supervised.rotation import Rotation, RotationConfig, quarter_turns
from agentlib.runs.plan import job_of


def batch_of(source):
    source.advance()
    source.fill_ticks(source.clock)
    return source.sample()


def test_each_image_in_four_orientations():
    images = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    turned, label = quarter_turns(images)
    assert label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for image, turn in zip(turned.split(3), range(4), strict=True):
        assert torch.equal(image.rot90(4 - turn, (2, 3)), images), "turned back"
    assert torch.equal(quarter_turns(turned[3:6])[0][9:], images), "four quarter turns are none"
    corner = torch.zeros(1, 1, 2, 2)
    corner[0, 0, 0, 0] = 1.0
    assert [image.nonzero()[0, 1:].tolist() for image in quarter_turns(corner)[0]] == [[0, 0], [1, 0], [1, 1], [0, 1]]


def test_null_value_and_the_loss_of_each_image():
    """Equal logits have the loss ln 4."""
    learner, source = Rotation.tiny()
    batch = batch_of(source)
    with torch.no_grad():
        logits = torch.stack([learner.network(batch.x.rot90(turn, (2, 3))) for turn in range(4)])  # (4, B, 4)
        expected = -torch.stack([logits[turn].log_softmax(1)[:, turn] for turn in range(4)]).mean(0)
    torch.testing.assert_close(learner.update(batch).per_sample, expected)
    for parameter in learner.network.head.parameters():
        nn.init.zeros_(parameter)
    update = learner.update(batch)
    torch.testing.assert_close(update.per_sample, torch.full((16,), math.log(4)))


def test_it_tells_orientations_apart_that_an_image_has():
    """A dot in one of three corners of a third: all turned images differ."""
    x = torch.zeros(64, 1, 6, 6)
    x[torch.arange(64), 0, torch.arange(64) % 2, torch.arange(64) % 3] = 1.0
    config = RotationConfig(batch_size=32, learning_rate=3e-3, shift=0, rotation=0.0, noise=0.05, net_arch=(32,))
    job = job_of(config, Problem(data=Dataset(x), steps=150))
    *_, (_, update) = run(job.learner, job.source, 150, compile=False)
    assert float(update.metrics["accuracy"]) > 0.95
    assert float(update.metrics["loss"]) < 0.5 * math.log(4)


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="quarter turns need square images, these are 6x8"):
        job_of("rotation", Problem(data=Dataset(torch.rand(32, 1, 6, 8)), steps=1))
