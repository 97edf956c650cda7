"""Answers of which several are drawn: how often one of k is right, and the one that most agree on.

    pass@k = 1 - C(n - c, k) / C(n, k)           c of n draws are right (Chen et al. 2021, arXiv:2107.03374)
    self-consistency = argmax_a sum_i [a_i = a]              (Wang et al. 2023, arXiv:2203.11171)

pass@k is the mean over all choices of k of the n draws, and without bias; 1 - (1 - c / n)^k is not. A vote is taken
over answers, and not over the texts that lead to them; of two answers, it helps where a single draw is right more often
than not, and harms where it is not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

Answer = TypeVar("Answer", bound=Hashable)


def pass_at_k(drawn: int | Sequence[int], right: int | Sequence[int], k: int) -> float:
    """The probability that one of k draws is right, as the mean over problems.

    Args:
        drawn: n of each problem, or one number for all.
        right: c, how many of them were right.
        k: from 1; at most the smallest n.

    Raises:
        ValueError: a number is out of its range, or there are no problems.
    """
    n, c = np.broadcast_arrays(np.atleast_1d(drawn), np.atleast_1d(right))
    if not n.size or k < 1 or k > n.min() or (c < 0).any() or (c > n).any():
        raise ValueError(f"k is from 1 to the number of draws, and of these 0 to all are right, not k={k} of "
                         f"{n.tolist()[:5]} with {c.tolist()[:5]} right")  # fmt: skip
    each = [1.0 - math.comb(int(n_) - int(c_), k) / math.comb(int(n_), k) for n_, c_ in zip(n, c, strict=True)]
    return float(np.mean(each))


def self_consistent(answers: Iterable[Answer | None]) -> Answer | None:
    """The answer that is there most often, of several the one that came first; None does not vote, nor win over one.

    Args:
        answers: those of texts drawn with a temperature above 0; None where a text has no answer.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def picked(candidates: Sequence[Answer], passes: Callable[[Answer], bool], k: int) -> list[Answer]:
    """At most k of the candidates that pass a filter, those first that were drawn most often (Li et al. 2022).

    Args:
        candidates: draws; equal ones count as one.
        passes: the filter, such as public tests; it is asked once of each.
        k: how many, at most.
    """
    return [candidate for candidate, _ in Counter(candidates).most_common() if passes(candidate)][:k]
