"""Figures of predictions on made-up data whose answers are known."""

import numpy as np
import pytest

from agent.report.dreams import calibration, horizon_below, over_episodes


def test_errors_have_intervals_over_episodes():
    errors = np.zeros((8, 3, 2))
    errors[4:, :, 0] = 8.0  # half of the episodes
    errors[:, :, 1] = 5.0
    band = over_episodes(errors, 0)
    assert band.mean.tolist() == [4, 5]
    assert (band.low[0], band.high[0]) == pytest.approx((1, 7))  # 1 of 8 drawn with an error, and 7 of 8: binomial
    assert (band.low[1], band.high[1]) == pytest.approx((5, 5))


@pytest.mark.parametrize(("errors", "steps"), [([1, 2, 3, 1], 2), ([3, 1, 1, 1], 0), ([1, 1, 1, 1], 4)])
def test_a_dream_holds_until_the_control_is_as_near(errors, steps):
    assert horizon_below(np.array(errors, float), np.full(4, 3.0)) == steps


def test_calibration_finds_a_bias_and_the_correlation():
    random = np.random.default_rng(0)
    predicted = random.uniform(0, 10, (20, 500))
    came = predicted + 2 + random.normal(0, np.std(predicted), predicted.shape)  # as much noise as signal
    found = calibration(predicted, came)
    assert found.predicted == pytest.approx(np.arange(0.5, 10), abs=0.1)  # ten groups of a tenth
    assert found.came - found.predicted == pytest.approx(np.full(10, 2.0), abs=0.4)
    assert found.correlation == pytest.approx(np.sqrt(0.5), abs=0.02)


def test_calibration_of_what_never_changes():
    found = calibration(np.arange(3.0), np.ones(3))
    assert (found.predicted.tolist(), found.came.tolist()) == ([0, 1, 2], [1, 1, 1])
    assert np.isnan(found.correlation)
