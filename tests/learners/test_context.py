"""Spatial context: which parts are shown, the null value, and places that can be told."""

import math

import pytest
import torch
from torch import nn

from agentlib.engine import run
from agentlib.learners.self_supervised.context import PART, STRIDE, TREMBLE, Context, parts_at


def test_parts_stand_where_they_should_and_do_not_touch():
    """Of a ramp from left to right, or from top to bottom, the mean of a part is that of its place."""
    side = 100
    ramp = (torch.arange(side) + 0.5) / side
    images = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])[:, None].repeat(9, 1, 1, 1)
    place = torch.arange(9).repeat_interleave(2)
    found = parts_at(images, place, torch.zeros(2, 18)).mean((1, 2, 3)).view(9, 2)
    centre = TREMBLE + PART / 2 + STRIDE * torch.arange(3.0)
    expected = torch.stack([centre.repeat(3), centre.repeat_interleave(3)], 1)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    moved = parts_at(images, place, torch.full((2, 18), TREMBLE)).mean((1, 2, 3)).view(9, 2)
    torch.testing.assert_close(moved, expected + TREMBLE, atol=0.01, rtol=0)
    assert STRIDE - PART - 2 * TREMBLE > 0, "a gap is left however they are moved"
    assert 2 * TREMBLE + 2 * STRIDE + PART <= 1.0, "inside the image however they are moved"


def test_null_value():
    """Equal logits have the loss ln 8."""
    learner, source = Context.tiny()
    for parameter in learner.head.parameters():
        nn.init.zeros_(parameter)
    source.advance()
    update = learner.update(source.sample())
    torch.testing.assert_close(update.per_sample, torch.full((16,), math.log(8)))


@pytest.mark.slow
def test_places_are_told_where_they_can_be():
    """Images that grow brighter to the right and to the bottom, twice as fast in one direction."""
    learner, source = Context.tiny()
    metrics = [update.metrics for _, update in run(learner, source, 600, compile=False)]
    assert float(metrics[0]["loss"]) == pytest.approx(math.log(8), abs=0.3)
    assert sum(float(one["accuracy"]) for one in metrics[-20:]) / 20 > 0.6
