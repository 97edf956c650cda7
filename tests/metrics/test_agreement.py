"""The numbers of GLUE, beside scikit-learn's and scipy's, and of answers that are always the same."""

import numpy as np
import pytest

from agentlib.metrics.agreement import accuracy, f1, matthews, pearson, spearman


@pytest.mark.parametrize("kinds", [2, 3])
def test_they_are_scikit_learns(kinds):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(kinds)
    for _ in range(20):
        found, true = (list(map(str, generator.integers(kinds, size=15))) for _ in range(2))
        assert accuracy(found, true) == pytest.approx(metrics.accuracy_score(true, found))
        assert matthews(found, true) == pytest.approx(metrics.matthews_corrcoef(true, found))
        if kinds == 2:
            assert f1(found, true, "1") == pytest.approx(metrics.f1_score(true, found, pos_label="1", zero_division=0))


def test_they_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for _ in range(20):
        x, y = generator.integers(6, size=(2, 15))  # with ties
        assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y)[0])
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y)[0])
    assert spearman(np.exp(np.arange(9.0)), np.arange(9)) == pytest.approx(1.0)


def test_always_the_same_answer_is_no_better_than_chance():
    assert matthews("aaaa", "abab") == 0.0
    assert f1("aaaa", "abab", "b") == 0.0
    assert pearson([1, 1, 1], [1, 2, 3]) == spearman([1, 1, 1], [1, 2, 3]) == 0.0
    with pytest.raises(ValueError, match="there are 2 answers and 3 true ones"):
        accuracy("ab", "abc")
