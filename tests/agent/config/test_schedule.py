"""Clocks: never early, never twice, no drift, and they go on after a checkpoint."""

import json
import math

import pytest

from agent.config.schedules import check_schedule, value_at
from agent.training.clocks import Deadline, Every, Ratio


def test_every_is_due_at_multiples_only():
    clock = Every(10)
    assert [value for value in range(0, 35) if clock.due(value)] == [10, 20, 30]


def test_every_keeps_its_grid_when_asked_late_and_counts_several_multiples_once():
    clock = Every(10)
    assert clock.due(37)
    assert not clock.due(39)
    assert clock.due(40)
    assert clock.due(1000)
    assert not clock.due(1009)


def test_every_starts_at_last():
    clock = Every(5, last=100.5)
    assert not clock.due(105.4)
    assert clock.due(105.5)


def test_every_goes_on_from_its_state():
    clock = Every(10)
    clock.due(25)
    other = Every(10)
    other.load_state_dict(json.loads(json.dumps(clock.state_dict())))
    assert not other.due(29)
    assert other.due(30)


@pytest.mark.parametrize("per_step", [0.5, 1.0, 2.0, 0.1, 0.29, 1 / 3, 7.3, 512 / 1024])
@pytest.mark.parametrize("stride", [1, 3, 8])
def test_ratio_is_exact_over_a_long_run(per_step, stride):
    ratio = Ratio(per_step)
    given = 0
    for step in range(0, 24_001, stride):
        given += ratio(step)
        # Never ahead, never a whole update behind; 1e-6 for the rounding of the float product.
        assert -1e-6 <= step * per_step - given < 1 + 1e-6
    assert given == math.floor(24_000 * per_step + 1e-6)


def test_ratio_gives_nothing_for_skipped_steps_and_nothing_twice():
    ratio = Ratio(0.5)
    for step in range(100):
        ratio.skip(step)
    assert ratio(99) == 0
    assert ratio(101) == 1
    assert ratio(101) == 0


def test_ratio_keeps_its_credit_in_a_checkpoint():
    ratio = Ratio(0.25)
    ratio.skip(10)
    assert ratio(13) == 0
    other = Ratio(0.25)
    other.load_state_dict(json.loads(json.dumps(ratio.state_dict())))
    assert other(14) == 1
    assert other(17) == 0


def test_deadline_passes_after_its_minutes_and_never_without():
    now = [100.0]
    deadline, endless = Deadline(2, clock=lambda: now[0]), Deadline(None, clock=lambda: now[0])
    now[0] = 219.9
    assert not deadline.passed()
    now[0] = 220.0
    assert deadline.passed()
    now[0] = 1e12
    assert not endless.passed()


@pytest.mark.parametrize(
    ("make", "name"),
    [(lambda: Every(0), "interval"), (lambda: Ratio(0), "per_step"), (lambda: Ratio(math.inf), "per_step"),
     (lambda: Deadline(0), "max_minutes"), (lambda: Deadline(math.nan), "max_minutes")],
)  # fmt: skip
def test_bad_intervals_are_named(make, name):
    with pytest.raises(ValueError, match=f"^{name}: got .*, expected a positive number$"):
        make()


POINTS = [[100, 0.0], [200, 1.0], [600, 0.5]]


@pytest.mark.parametrize(
    ("updates", "expected"),
    [(0, 0.0), (100, 0.0), (125, 0.25), (150, 0.5), (200, 1.0), (400, 0.75), (600, 0.5), (10**9, 0.5)],
)
def test_a_schedule_is_linear_between_its_points_and_constant_outside(updates, expected):
    assert value_at(POINTS, updates) == pytest.approx(expected)


@pytest.mark.parametrize("updates", [0, 7, 10**6])
def test_a_number_and_a_single_point_are_constant(updates):
    assert value_at(0.7, updates) == 0.7
    assert value_at([[500, 0.7]], updates) == 0.7


@pytest.mark.parametrize("schedule", [0, 0.0, 1.5, [[0, 0]], POINTS])
def test_sound_schedules_pass(schedule):
    check_schedule("beta", schedule)


@pytest.mark.parametrize(
    "schedule",
    [-1.0, math.nan, math.inf, True, "1", None, [], [1, 2], [[0]], [[0, 1, 2]], [[0, -1]], [[-1, 0]], [[0, "a"]],
     [[0, math.nan]], [[0, 1], [0, 2]], [[5, 1], [4, 2]], [[0, True]], {"0": 1}],
)  # fmt: skip
def test_broken_schedules_are_one_line(schedule):
    with pytest.raises(ValueError, match=r"^beta: got .*, expected a number >= 0 or points") as caught:
        check_schedule("beta", schedule)
    assert "\n" not in str(caught.value)
