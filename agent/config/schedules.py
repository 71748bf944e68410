"""Settings that follow a schedule over updates."""

import math
from itertools import pairwise
from typing import Any

import numpy as np

Schedule = float | list[list[float]]  # a number, or points [[updates, value], ...]


def value_at(schedule: Schedule, updates: float) -> float:
    """Return a schedule's value: linear between its points, constant before the first and after the last."""
    if not isinstance(schedule, list):
        return float(schedule)
    times, values = zip(*schedule, strict=True)
    return float(np.interp(updates, times, values))


def check_schedule(name: str, schedule: Any) -> None:
    """Raise ValueError unless a schedule is a number >= 0, or points with ascending updates and values >= 0."""
    points = schedule if isinstance(schedule, list) else [[0, schedule]]
    is_valid = len(points) > 0 and all(
        isinstance(point, list) and len(point) == 2 and all(_is_amount(number) for number in point) for point in points
    )
    if not is_valid or any(left[0] >= right[0] for left, right in pairwise(points)):
        expected = "a number >= 0 or points [[updates, value], ...] with ascending updates and values >= 0"
        raise ValueError(f"{name}: got {schedule!r}, expected {expected}")


def _is_amount(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < math.inf
