"""Scaling laws: planted numbers are found again, the best size by its closed form, and intervals cover the truth."""

from itertools import product

import numpy as np
import pytest

from agentlib.metrics.scaling import ScalingLaw, chinchilla, kaplan

N, D = np.array([*product(10.0 ** np.linspace(6, 9, 6), 10.0 ** np.linspace(8, 10.5, 6))]).T
HOFFMANN = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
"""The numbers of the paper."""
KAPLAN = {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}


def by_hoffmann(n, d):
    return 1.69 + 406.4 / n**0.34 + 410.7 / d**0.28


def by_kaplan(n, d):
    return ((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095


@pytest.mark.parametrize(("fit", "truth", "law"), [(chinchilla, HOFFMANN, by_hoffmann), (kaplan, KAPLAN, by_kaplan)])
def test_planted_numbers_are_found(fit, truth, law):
    found = fit(N, D, law(N, D), resamples=20)
    for name, value in truth.items():
        assert found.estimate(name).value == pytest.approx(value, rel=1e-3), name
    np.testing.assert_allclose(found.loss(1e10, 1e12), law(1e10, 1e12), rtol=1e-5)


@pytest.mark.parametrize(("fit", "truth", "law"), [(chinchilla, HOFFMANN, by_hoffmann), (kaplan, KAPLAN, by_kaplan)])
def test_exponents_are_found_through_noise_and_lie_in_their_intervals(fit, truth, law):
    noise = np.exp(0.001 * np.random.default_rng(0).standard_normal(len(N)))
    found = fit(N, D, law(N, D) * noise)
    for name in truth:
        if name.startswith("alpha") or name == "beta":
            value, interval = found.estimate(name)
            assert value == pytest.approx(truth[name], abs=0.01), name
            assert interval.low - 0.003 < truth[name] < interval.high + 0.003, name
            assert 0 < interval.high - interval.low < 0.05, name


def test_an_outlier_hardly_counts():
    losses = by_hoffmann(N, D)
    losses[7] *= 2.0
    assert chinchilla(N, D, losses, resamples=2).estimate("alpha").value == pytest.approx(0.34, abs=0.005)


def test_the_best_size_is_that_of_the_closed_form():
    """N = G (C / 6)^(beta / (alpha + beta)), G = (alpha A / (beta B))^(1 / (alpha + beta)); equation 4 of the paper."""
    found, compute = chinchilla(N, D, by_hoffmann(N, D), resamples=2), 5.76e23
    expected = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62) * (compute / 6) ** (0.28 / 0.62)
    n, d = found.best(compute)
    assert n == pytest.approx(expected, rel=0.02)
    assert 6 * n * d == pytest.approx(compute)


def test_a_number_beyond_all_floats_is_infinite():
    law = ScalingLaw(("A",), 1, lambda numbers, n, d: numbers, np.array([800.0]), np.array([[1.0], [900.0], [1000.0]]))
    value, interval = law.estimate("A")
    assert value == interval.high == np.inf
    assert law.estimate("A").interval.low > 0.0


def test_mistakes():
    with pytest.raises(ValueError, match="six runs at least"):
        chinchilla([1, 2], [1, 2], [1, 2])
    with pytest.raises(ValueError, match="positive numbers"):
        kaplan(N, D, -by_hoffmann(N, D))
    with pytest.raises(ValueError, match="more than 6, not -1"):
        chinchilla(N, D, by_hoffmann(N, D), resamples=1).best(-1)
    with pytest.raises(ValueError, match="all runs have one size"):
        chinchilla(np.ones(6), range(1, 7), np.ones(6))
