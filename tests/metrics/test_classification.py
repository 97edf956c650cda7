"""Measures of a classifier in closed form, by hand."""

import math

import pytest
import torch

from agentlib.metrics.classification import classification_measures, shares_of


def test_the_measures_of_four_examples_and_their_floors():
    """Shares 1/4 and 3/4 in training; on test three labels of class 1, of which one is missed."""
    shares = shares_of(torch.tensor([0, 1, 1, 1]), 2)
    assert shares.tolist() == [0.25, 0.75]
    odds = math.log(3.0)  # probabilities of 1/4 and 3/4
    logits, labels = torch.tensor([[odds, 0.0], [odds, 0.0], [0.0, odds], [0.0, odds]]), torch.tensor([0, 1, 1, 1])
    found = {one.name: (one.value, one.reference) for one in classification_measures(logits, labels, shares, 1.0)}
    assert found["test/accuracy"] == (0.75, 0.75)
    uneven = -(3 * math.log(0.75) + math.log(0.25)) / 4
    assert found["test/loss"] == pytest.approx((uneven, uneven))
    assert found["test/ece"][0] == pytest.approx(0.0, abs=1e-6)  # sure by 3/4, and right in 3/4
    assert found["test/temperature"] == (1.0, 1.0)
