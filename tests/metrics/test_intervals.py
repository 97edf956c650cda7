import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from agentlib.core.names import readable
from agentlib.metrics import (
    Estimate,
    Interval,
    bootstrap_interval,
    interquartile_mean,
    paired_difference,
    t_interval,
)
from agentlib.metrics.intervals import estimate

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


@given(numbers)
def test_interquartile_mean_is_scipys_trimmed_mean(values):
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-9, abs=1e-6)


def test_interquartile_mean_along_an_axis():
    values = np.random.default_rng(0).normal(size=(7, 3, 9))
    for axis in (0, 1, 2, -1):
        np.testing.assert_allclose(interquartile_mean(values, axis=axis), stats.trim_mean(values, 0.25, axis=axis))


def test_interquartile_mean_leaves_out_the_outer_quarters():
    assert interquartile_mean([-1e9, 1, 2, 3, 4, 5, 6, 1e9]) == 3.5


@pytest.mark.parametrize("statistic", [np.mean, np.median, interquartile_mean])
def test_interval_agrees_with_scipys_bootstrap(statistic):
    values = np.random.default_rng(1).gamma(2.0, 10.0, size=60)
    oracle = stats.bootstrap(
        (values,), statistic, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2), axis=-1
    ).confidence_interval
    ours = bootstrap_interval(values, statistic, resamples=20_000)
    width = oracle.high - oracle.low
    assert ours.low == pytest.approx(oracle.low, abs=0.05 * width)
    assert ours.high == pytest.approx(oracle.high, abs=0.05 * width)


@pytest.mark.parametrize(
    ("statistic", "count", "expected"),
    [
        (np.mean, 2, 0.50),
        (np.mean, 5, 0.84),
        (np.mean, 50, 0.94),
        (interquartile_mean, 3, 0.74),
        (interquartile_mean, 5, 0.89),
        (np.median, 3, 0.75),
        (np.median, 5, 0.93),
    ],
)
def test_coverage_on_normal_data_is_what_the_documentation_says(statistic, count, expected):
    samples = np.random.default_rng(3).normal(size=(800, count))
    intervals = [
        bootstrap_interval(sample, statistic, resamples=500, seed=index) for index, sample in enumerate(samples)
    ]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert covered == pytest.approx(expected, abs=0.045)  # about three standard errors


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.floats(0.01, 0.999))
@settings(max_examples=50)
def test_t_interval_is_scipys(values, confidence):
    mean, error = np.mean(values), stats.sem(values)
    ours, half = t_interval(values, confidence=confidence), stats.t.ppf(0.5 + confidence / 2, len(values) - 1) * error
    assert ours.low == pytest.approx(mean - half, rel=1e-9, abs=1e-9)
    assert ours.high == pytest.approx(mean + half, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_t_interval_covers_the_mean_of_few_normal_values(count):
    intervals = [t_interval(sample) for sample in np.random.default_rng(3).normal(size=(10_000, count))]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert covered == pytest.approx(0.95, abs=0.007)  # about three standard errors


def test_t_interval_of_one_value_is_unknown_and_of_no_vector_refused():
    assert not t_interval([3.0]).known
    with pytest.raises(ValueError, match="vector"):
        t_interval([])
    with pytest.raises(ValueError, match="confidence"):
        t_interval([1.0, 2.0], confidence=95)


def test_interval_is_repeatable_and_draws_from_no_global_generator(globals_untouched):
    values = np.arange(10.0)
    with globals_untouched():
        assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1, resamples=100) != bootstrap_interval(values, seed=2, resamples=100)


def test_many_values_are_resampled_in_chunks():
    interval = bootstrap_interval(np.random.default_rng(0).normal(5.0, 1.0, size=300_000), resamples=40)
    assert 4.99 < interval.low < interval.high < 5.01


def test_one_value_has_no_interval():
    alone = estimate([3.0])
    assert alone.value == 3.0
    assert not alone.interval.known
    assert str(alone) == "3.00"
    assert str(alone.interval) == "unknown"


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]]])
def test_what_is_no_vector_is_refused(values):
    with pytest.raises(ValueError, match="vector"):
        bootstrap_interval(values)


def test_nothing_has_no_interquartile_mean():
    with pytest.raises(ValueError, match="no values"):
        interquartile_mean([])


def test_confidence_outside_0_and_1_is_refused():
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0, 2.0], confidence=95)


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=8))
@settings(max_examples=30)
def test_paired_difference_turns_with_its_sides(pairs):
    first, second = np.array(pairs).T
    there, back = paired_difference(first, second), paired_difference(second, first)
    assert there.value == pytest.approx(-back.value, abs=1e-9)
    assert there.interval.low == pytest.approx(-back.interval.high, abs=1e-9)
    assert there.interval.low <= there.value + 1e-9
    assert there.value <= there.interval.high + 1e-9


def test_pairing_removes_what_both_sides_share():
    shared = np.array([0.0, 100.0, 200.0, 300.0, 400.0])
    difference = paired_difference(shared + np.array([1.0, 2.0, 1.0, 2.0, 1.5]), shared)
    half = 2.776445 * 0.5 / 5**0.5  # Student's quantile for 4 degrees of freedom, and the deviation of the differences
    assert difference.value == pytest.approx(1.5)
    assert difference.interval == pytest.approx((1.5 - half, 1.5 + half), abs=1e-5)


def test_pairs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("number", "text"), [(0.0, "0.000"), (-0.0001, "0.000"), (0.8235, "0.824"), (9.27, "9.27"), (-133.04, "-133.0")]
)
def test_numbers_are_rounded_for_reading(number, text):
    assert readable(number) == text


def test_large_and_signed_numbers():
    assert readable(50_000.0) == "50,000"
    assert readable(3.0, sign=True) == "+3.00"
    assert str(Estimate(2.0, Interval(1.0, 3.5))) == "2.00 [1.00, 3.50]"
