"""Learning that goes on: how a learner fares on each of a stream of tasks, after each of them.

R is a matrix `(T, T)`: R[i, j] is the accuracy on task j after learning tasks 0 to i.

    average = mean_j R[T-1, j]                                forgetting = mean_{j<T-1} max_{i<T-1} R[i, j] - R[T-1, j]
    backward = mean_{j<T-1} R[T-1, j] - R[j, j]               forward = mean_{j>0} R[j-1, j] - b_j

b_j is the accuracy before any learning. Transfers are Lopez-Paz and Ranzato's (2017, arXiv:1706.08840), forgetting is
that of Chaudhry et al. (2018, arXiv:1801.10112).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def average_accuracy(matrix: ArrayLike) -> float:
    """The mean accuracy on all tasks in the end."""
    return float(np.asarray(matrix)[-1].mean())


def forgetting(matrix: ArrayLike) -> float:
    """The mean loss of accuracy since a task was known best, of all tasks but the last."""
    found = np.asarray(matrix)
    return float((found[:-1, :-1].max(0) - found[-1, :-1]).mean())


def backward_transfer(matrix: ArrayLike) -> float:
    """The mean gain of accuracy since a task was learned, of all tasks but the last; below 0 it is a loss."""
    found = np.asarray(matrix)
    return float((found[-1] - found.diagonal())[:-1].mean())


def forward_transfer(matrix: ArrayLike, before: ArrayLike) -> float:
    """The mean gain of accuracy on a task by learning those before it, of all tasks but the first.

    Args:
        matrix: `(T, T)`.
        before: `(T,)`, the accuracies before any learning.
    """
    found = np.asarray(matrix)
    return float((found.diagonal(1) - np.asarray(before)[1:]).mean())
