"""Several answers: pass@k by its definition, votes by the binomial distribution, and picks."""

import itertools
import math

import numpy as np
import pytest

from agentlib.metrics.answers import pass_at_k, picked, self_consistent


def test_pass_at_k_is_the_mean_over_all_choices():
    assert pass_at_k(10, 3, 5) == pytest.approx(0.9167, abs=5e-5)
    assert pass_at_k(10, 3, 5) - (1 - (1 - 3 / 10) ** 5) > 0.08  # the biased one
    for n, c, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if c <= n and k <= n:
            choices = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(choice) for choice in choices]))
    assert pass_at_k([4, 4], [1, 3], 1) == pytest.approx(0.5)
    assert pass_at_k(2_000, 3, 1_000) == pytest.approx(1 - 0.5**3, abs=1e-3)
    for n, c, k in ((3, 1, 4), (3, 4, 1), (3, 1, 0), (3, -1, 1)):
        with pytest.raises(ValueError, match="k is from 1 to the number of draws"):
            pass_at_k(n, c, k)
    with pytest.raises(ValueError, match="k is from 1"):
        pass_at_k([], [], 1)


@pytest.mark.parametrize(
    ("p", "n", "expected"), [(0.6, 5, 0.6826), (0.6, 11, 0.7535), (0.4, 5, 0.317), (0.4, 41, 0.097)]
)
def test_a_vote_is_right_as_the_binomial_distribution_says(p, n, expected):
    exact = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n // 2 + 1, n + 1))
    assert exact == pytest.approx(expected, abs=1e-3)
    answers = np.random.default_rng(0).random((4_000, n)) < p
    found = np.mean([self_consistent("right" if one else "wrong" for one in row) == "right" for row in answers])
    assert found == pytest.approx(exact, abs=0.03)


def test_votes_and_picks():
    assert self_consistent(["b", "a", "a", None, None, None]) == "a"
    assert self_consistent(["b", "a"]) == "b"
    assert self_consistent([0, 0, 1]) == 0
    assert self_consistent([None]) is None
    assert self_consistent([]) is None
    asked = []

    def passes(candidate):
        asked.append(candidate)
        return candidate != "c"

    assert picked(["a", "b", "c", "b", "c", "c", "d"], passes, 2) == ["b", "a"]
    assert sorted(asked) == ["a", "b", "c", "d"]
