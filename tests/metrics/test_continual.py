"""Measures of learning that goes on, by hand on a matrix of three tasks."""

import numpy as np
import pytest

from agentlib.metrics.continual import average_accuracy, backward_transfer, forgetting, forward_transfer

MATRIX = [[0.9, 0.3, 0.1], [0.6, 0.8, 0.2], [0.7, 0.5, 1.0]]


def test_by_hand():
    assert average_accuracy(MATRIX) == pytest.approx(2.2 / 3)
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)
    assert backward_transfer(MATRIX) == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert forward_transfer(MATRIX, [0.1, 0.2, 0.05]) == pytest.approx(((0.3 - 0.2) + (0.2 - 0.05)) / 2)


def test_a_task_that_became_better_later_is_forgotten_from_there():
    matrix = np.array([[0.5, 0.0, 0.0], [0.9, 0.9, 0.0], [0.6, 0.9, 0.9]])
    assert forgetting(matrix) == pytest.approx(0.15)
    assert backward_transfer(matrix) == pytest.approx(0.05)


def test_nothing_lost_is_no_forgetting():
    assert forgetting(np.ones((4, 4))) == backward_transfer(np.ones((4, 4))) == 0.0
    assert forward_transfer(np.eye(3), np.zeros(3)) == 0.0
