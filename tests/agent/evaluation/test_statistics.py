"""Figures of small samples: by hand, against a bootstrap written out here, and where they are not defined."""

import math
from dataclasses import astuple

import numpy as np
import pytest
import scipy.stats
from scipy.special import ndtr, ndtri

from agent.evaluation.statistics import (
    bootstrap_interval,
    difference_of_means,
    interquartile_mean,
    interquartile_mean_of_runs,
    mean_of_tasks,
    probability_of_improvement,
    stratified_interval,
    student_interval,
    summarize,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 9.0], 4.0),  # three quarters of a value are none
        ([0.0, 10.0, 20.0, 900.0], 15.0),
        ([100.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3.5),  # 2, 3, 4 and 5 are left
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1000.0], 5.5),  # two of ten go at each end
    ],
)
def test_interquartile_mean_by_hand(values, expected):
    assert float(interquartile_mean(np.array(values))) == expected
    assert summarize(values).iqm == expected


def test_summary_by_hand():
    found = summarize((2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0))
    assert (found.mean, found.lowest, found.highest, found.iqm) == (5.0, 2.0, 9.0, 4.5)
    assert found.std == pytest.approx(math.sqrt(32 / 7))
    assert 2 < found.interval_low < 5 < found.interval_high < 9
    assert 2 < found.iqm_low < 4.5 < found.iqm_high < 9


def bca(values: np.ndarray, resamples: int) -> np.ndarray:
    """The 95 % BCa interval of the mean, as Efron and Tibshirani write it (An Introduction to the Bootstrap, 14.3)."""
    random, count = np.random.default_rng(123), len(values)
    means = values[random.integers(0, count, (resamples, count))].mean(1)
    bias = ndtri((means < values.mean()).mean())
    left_out = (values.sum() - values) / (count - 1)
    spread = left_out.mean() - left_out
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    normal = ndtri(np.array([0.025, 0.975]))
    return np.quantile(means, ndtr(bias + (bias + normal) / (1 - acceleration * (bias + normal))))


def test_interval_of_the_mean_is_bca():
    values = np.random.default_rng(0).exponential(100.0, 25)
    low, high = bootstrap_interval(values, np.mean)
    np.testing.assert_allclose((low, high), bca(values, 200_000), rtol=0.02)
    plain = 1.96 * values.std() / 5
    assert high - values.mean() > 1.1 * plain > 1.1 * (values.mean() - low)  # skewed as the sample is


def test_interval_of_a_large_symmetric_sample_is_the_normal_one():
    half = scipy.stats.norm.ppf((np.arange(500) + 0.5) / 1000)
    values = np.concatenate([half, -half])
    found = bootstrap_interval(values, np.mean)
    expected = 1.96 * values.std() / math.sqrt(1000)
    np.testing.assert_allclose(found, (-expected, expected), rtol=0.04)


def test_the_interval_holds_the_mean_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    samples = random.normal(500, 100, (100, 20))
    held = sum(low < 500 < high for low, high in (bootstrap_interval(sample, np.mean) for sample in samples))
    assert 87 <= held <= 99


@pytest.mark.parametrize("values", [[5.0, 5.0, 5.0], [1000.0] * 7 + [0.0], [0.0] * 9 + [1.0], [3.0, 4.0]])
def test_degenerate_samples_have_finite_intervals_and_warn_of_nothing(values):
    found = summarize(values)
    assert all(map(math.isfinite, astuple(found)))
    assert found.lowest <= found.interval_low <= found.mean <= found.interval_high <= found.highest
    assert found.lowest <= found.iqm_low <= found.iqm <= found.iqm_high <= found.highest
    if found.lowest == found.highest:
        assert found.interval_low == found.interval_high == 5.0


def test_one_value_has_no_spread():
    found = summarize([3.0])
    assert (found.mean, found.iqm, found.lowest, found.highest) == (3.0, 3.0, 3.0, 3.0)
    assert all(math.isnan(value) for value in (found.std, found.interval_low, found.iqm_high))


def test_the_same_returns_have_the_same_figures():
    values = np.random.default_rng(2).gamma(2.0, 100.0, 10)
    assert summarize(values) == summarize(list(values))


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_student_interval(count):
    values = tuple(np.random.default_rng(count).gamma(2.0, 100.0, count))
    mean, std, low, high = student_interval(values)
    expected = scipy.stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=scipy.stats.sem(values))
    np.testing.assert_allclose((low, high), expected, rtol=1e-9)
    np.testing.assert_allclose((mean, std), (np.mean(values), np.std(values, ddof=1)))


def test_several_tasks_by_hand():
    ours = [np.array([1.0, 3.0]), np.array([10.0, 20.0, 30.0])]
    theirs = [np.array([2.0]), np.array([5.0, 25.0])]
    assert float(mean_of_tasks(ours)) == 11.0  # of 2 and 20, whatever the number of runs
    assert float(interquartile_mean_of_runs(ours)) == 11.0  # of 3, 10 and 20: one of five goes at each end
    assert float(difference_of_means(ours, theirs)) == 2.5  # 0 on the first, 5 on the second
    # First task: one of two wins. Second: 10, 20 beat 5, 30 beats both, of six pairs.
    assert float(probability_of_improvement(ours, theirs)) == pytest.approx((1 / 2 + 4 / 6) / 2)
    assert float(probability_of_improvement(ours, ours)) == 0.5


def test_the_interval_over_tasks_resamples_within_each():
    # One task's two runs are far apart, the other's are equal: the mean is 0, 250 or 500 more than 1000, by the draw.
    value, low, high = stratified_interval(mean_of_tasks, [np.array([0.0, 1000.0]), np.array([2000.0, 2000.0])])
    assert (value, low, high) == (1250.0, 1000.0, 1500.0)
    # Many runs: the normal interval of a mean of independent task means.
    random = np.random.default_rng(1)
    scores = [random.normal(mean, 50, 200) for mean in (100, 500, 900)]
    value, low, high = stratified_interval(mean_of_tasks, scores)
    half = 1.96 * math.sqrt(sum(task.var() / 200 for task in scores)) / 3
    np.testing.assert_allclose((low, high), (value - half, value + half), atol=0.15)
    value, low, high = stratified_interval(difference_of_means, scores, [task - 10 for task in scores])
    assert value == pytest.approx(10)
    assert low < 10 < high


def test_a_single_run_has_no_interval():
    value, low, high = stratified_interval(mean_of_tasks, [np.array([1.0, 2.0]), np.array([5.0])])
    assert value == 3.25
    assert math.isnan(low)
    assert math.isnan(high)
