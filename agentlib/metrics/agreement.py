"""How well answers agree with the true ones: the numbers that GLUE asks for (Wang et al. 2018, arXiv:1804.07461).

    F1 = 2 TP / (2 TP + FP + FN)
    Matthews = (c s - p . t) / sqrt((s^2 - p . p) (s^2 - t . t))        c of s are right; p, t: counts of each answer
    Pearson = cov(x, y) / (sd(x) sd(y)),    Spearman: that of the ranks

A number that would be 0 / 0 is 0: always the same answer agrees no better than chance.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike


def _pairs(found: Sequence[Hashable], true: Sequence[Hashable]) -> list[tuple[Hashable, Hashable]]:
    if len(found) != len(true) or not len(true):
        raise ValueError(f"there are {len(found)} answers and {len(true)} true ones: give as many of both")
    return list(zip(found, true, strict=True))


def accuracy(found: Sequence[Hashable], true: Sequence[Hashable]) -> float:
    """The share of answers that are right."""
    return float(np.mean([one == other for one, other in _pairs(found, true)]))


def f1(found: Sequence[Hashable], true: Sequence[Hashable], positive: Hashable) -> float:
    """The harmonic mean of precision and recall of the positive answer."""
    pairs = _pairs(found, true)
    hits = sum(one == other == positive for one, other in pairs)
    named = sum((one == positive) + (other == positive) for one, other in pairs)
    return 2.0 * hits / named if named else 0.0


def matthews(found: Sequence[Hashable], true: Sequence[Hashable]) -> float:
    """The correlation of answers of two or more kinds (Matthews 1975; Gorodkin 2004)."""
    pairs = _pairs(found, true)
    kinds = list(dict.fromkeys([*found, *true]))
    answered, asked = ([list(side).count(kind) for kind in kinds] for side in (found, true))
    s, c = len(pairs), sum(one == other for one, other in pairs)
    p_t, p_p, t_t = (sum(map(int.__mul__, a, b)) for a, b in ((answered, asked), (answered, answered), (asked, asked)))
    below = sqrt((s * s - p_p) * (s * s - t_t))
    return (c * s - p_t) / below if below else 0.0


def pearson(found: ArrayLike, true: ArrayLike) -> float:
    """The correlation of numbers `(n,)`."""
    x, y = (np.asarray(side, np.float64).ravel() for side in (found, true))
    _pairs(x, y)  # type: ignore[arg-type]
    x, y = x - x.mean(), y - y.mean()
    below = sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / below if below else 0.0


def spearman(found: ArrayLike, true: ArrayLike) -> float:
    """The correlation of the ranks of numbers `(n,)`; equal ones share their mean rank."""
    ranks = []
    for side in (found, true):
        _, place, counts = np.unique(np.asarray(side, np.float64).ravel(), return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - 0.5 * (counts - 1))[place])
    return pearson(*ranks)
