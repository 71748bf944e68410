"""The checks at the doors of this package, each one line of ValueError."""

import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray


def checked_count(name: str, value: int, minimum: int) -> int:
    """Return `value` as a Python int of at least `minimum`, or raise a ValueError that names it."""
    try:
        count = operator.index(value)
    except TypeError:
        count = minimum - 1
    if count < minimum:
        raise ValueError(f"{name}: got {value!r}, expected a whole number of at least {minimum}")
    return count


def checked_action(action: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return `action` as fresh float32 of `shape`, clipped to [-1, 1], or raise a ValueError.

    Raises:
        ValueError: not of `shape`, not numbers, or not finite.
    """
    try:
        array = np.array(action, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"action: got {type(action).__name__}, expected numbers of shape {shape}") from error
    if array.shape != shape:
        raise ValueError(f"action: got shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"action: got {array[index]} at index {index}, expected finite numbers in [-1, 1]")
    return np.clip(array, -1.0, 1.0)
