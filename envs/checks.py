"""Checks of this package's public arguments, with one-line ValueErrors."""

import inspect
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

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


def checked_plain(name: str, values: Any) -> Mapping[str, Any]:
    """Return a mapping of arguments, or raise a ValueError unless it holds `is_plain` values."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}: got {str(values)[:60]!r}, expected a mapping as in {{key: value}}")
    for key, value in values.items():
        if not isinstance(key, str) or not is_plain(value):
            raise ValueError(
                f"{name}: got {type(value).__name__} {str(value)[:60]!r} for {str(key)[:60]!r}, "
                "expected strings as keys, and as values numbers, strings, true, false, null, lists or mappings of them"
            )
    return values


def is_plain(value: Any, depth: int = 8) -> bool:
    """Return whether JSON can hold a value: finite numbers, text, lists and mappings of them, up to `depth` levels."""
    if isinstance(value, list | Mapping):
        inside = value.values() if isinstance(value, Mapping) else value
        names = value if isinstance(value, Mapping) else ()
        return depth > 0 and all(isinstance(n, str) for n in names) and all(is_plain(v, depth - 1) for v in inside)
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)


def check_arguments(
    arguments: Mapping[str, Any], function: Callable[..., Any], taken: Collection[str], of: str
) -> None:
    """Raise ValueError unless `function`, named `of` in the error, accepts all arguments and none is in `taken`."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.name not in ("self", *taken) and p.kind is not p.VAR_KEYWORD]
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in arguments:
        if name in taken or (name not in known and not is_open):
            raise ValueError(f"env.kwargs: got {name!r}, expected arguments of {of}: {', '.join(known) or 'none'}")
