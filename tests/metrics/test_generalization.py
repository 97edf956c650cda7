import math

import numpy as np
import pytest

from agentlib.metrics.generalization import bias_variance, decompose, fit_report, generalization, hoeffding, occam


def curve(x):
    x = x.ravel()
    return np.exp(-(x**2)) + 1.5 * np.exp(-((x - 2) ** 2))


@pytest.mark.parametrize(
    ("bagged", "expected"),
    [
        (False, (0.0255, 0.0003, 0.0152, 0.0098)),
        pytest.param(True, (0.0196, 0.0004, 0.0092, 0.0098), marks=pytest.mark.slow),
    ],
)
def test_scikit_learns_example(bagged, expected):
    """The decomposition of a tree, and of fifty bagged ones, as scikit-learn's example of it prints it."""
    tree = pytest.importorskip("sklearn.tree").DecisionTreeRegressor
    bagging = pytest.importorskip("sklearn.ensemble").BaggingRegressor
    # The example draws from numpy's global generator: train sets first, then the test set.
    random = np.random.RandomState(0)

    def generate(n, repeats):
        x = random.rand(n) * 10 - 5
        x = np.sort(x)
        if repeats == 1:
            y = curve(x) + random.normal(0.0, 0.1, n)
        else:
            y = np.stack([curve(x) + random.normal(0.0, 0.1, n) for _ in range(repeats)], axis=1)
        return x.reshape(n, 1), y

    trainings = [generate(50, 1) for _ in range(50)]
    x, y = generate(1000, 50)
    predictions = [
        (bagging(tree(), random_state=random) if bagged else tree(random_state=random)).fit(*training).predict(x)
        for training in trainings
    ]
    found = bias_variance(np.stack(predictions), curve(x), y.T)
    assert found == pytest.approx(expected, abs=0.0006)
    pairs = np.mean([(y[:, j] - prediction) ** 2 for j in range(50) for prediction in predictions])
    assert found.error == pytest.approx(pairs, rel=1e-9)


def test_a_decomposition_in_closed_form():
    """c times the mean of n draws from N(m, 1): bias^2 = (1 - c)^2 m^2, variance c^2 / n."""
    n, m, c = 10, 2.0, 0.5
    noise = np.random.default_rng(1).normal(size=(4000, 1))

    def draw(seed):
        return m + np.random.default_rng(seed).normal(size=n)

    def fit(data, seed):
        return lambda x: np.full(1, c * data.mean())

    found = decompose(fit, draw, None, np.array([m]), m + noise, repeats=4000)
    assert found.bias2 == pytest.approx((1 - c) ** 2 * m**2, rel=0.03)
    assert found.variance == pytest.approx(c**2 / n, rel=0.1)
    assert found.noise == pytest.approx(1.0, rel=0.1)
    assert found.error == pytest.approx(sum(found[1:]), rel=0.05)
    assert "bias^2" in str(found)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="R >= 2 training sets"):
        bias_variance(np.zeros((1, 3)), np.zeros(3), np.zeros((2, 3)))


def test_polynomials_underfit_and_overfit():
    generator = np.random.default_rng(0)
    x, x_validation = generator.uniform(-1, 1, 20), generator.uniform(-1, 1, 200)

    def targets(x):
        return np.sin(4 * x) + 0.2 * generator.normal(size=len(x))

    y, y_validation = targets(x), targets(x_validation)
    verdicts = {}
    for degree in (1, 5, 15):
        fitted = np.polynomial.Polynomial.fit(x, y, degree)
        report = fit_report((fitted(x) - y) ** 2, (fitted(x_validation) - y_validation) ** 2, baseline=float(y.var()))
        verdicts[degree] = report.verdict
        assert report.verdict in str(report)
    assert verdicts == {1: "underfits", 5: "fits", 15: "overfits"}


def test_what_cannot_be_judged():
    with pytest.raises(ValueError, match="no losses"):
        fit_report([], [1.0], 1.0)
    with pytest.raises(ValueError, match="constant targets"):
        fit_report([0.0], [0.0], 0.0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        generalization([0.0], [2.0], 1)


def test_hoeffding_holds():
    """With p = .5 and N = 100, |mean - p| exceeds the 95% bound in fewer than 5% of all cases, but half of it often."""
    means = np.random.default_rng(0).binomial(100, 0.5, 20_000) / 100
    assert hoeffding(100) == pytest.approx(math.sqrt(math.log(40) / 200))
    assert (np.abs(means - 0.5) > hoeffding(100)).mean() < 0.05
    assert (np.abs(means - 0.5) > hoeffding(100) / 2).mean() > 0.05


def test_the_gap_beside_its_bounds():
    train, test = np.zeros(1000), np.repeat([0.0, 1.0], [90, 10])
    found = generalization(train, test, parameters=3)
    assert found.gap == pytest.approx(0.1)
    assert found.test_bound == hoeffding(100)
    assert found.gap_bound == occam(96, 1000) == pytest.approx(math.sqrt((96 * math.log(2) + math.log(20)) / 2000))
    assert "says nothing" not in str(found)
    assert "says nothing" in str(generalization(train, test, parameters=10_000))
