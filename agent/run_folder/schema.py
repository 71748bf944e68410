"""Schemas of values read from files, and one-line errors for values that do not match."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Array(NamedTuple):
    """A tensor; None allows any dtype or size."""

    dtype: torch.dtype | None
    shape: tuple[int | None, ...]


class Count(NamedTuple):
    """A whole number of at least `low`."""

    low: int = 0


class Each(NamedTuple):
    """A list or tuple of `length` elements (None: any number) that all match `item`."""

    item: Any
    length: int | None = None


class Table(NamedTuple):
    """A dict with string keys whose values all match `value`."""

    value: Any


class Maybe(NamedTuple):
    """None, or a value that matches `value`."""

    value: Any


def check(value: Any, expected: Any, where: str) -> None:
    """Raise ValueError `where: got X, expected Y` unless a value matches a schema.

    A schema is one of the classes above, None, a type (object allows everything; float allows finite numbers, whole
    ones too), a tensor (its dtype and shape), a dict (the same keys, a schema each), or a list (a schema per element).
    """
    if isinstance(expected, Maybe):
        if value is not None:
            check(value, expected.value, where)
    elif isinstance(expected, Tensor):
        check(value, Array(expected.dtype, tuple(expected.shape)), where)
    elif isinstance(expected, Array):
        _check_array(value, expected, where)
    elif isinstance(expected, Count):
        if type(value) is not int or not expected.low <= value < 2**63:
            raise ValueError(f"{where}: got {_short(value)}, expected a whole number of at least {expected.low}")
    elif isinstance(expected, Each | list):
        _check_sequence(value, expected, where)
    elif isinstance(expected, Table | Mapping):
        _check_mapping(value, expected, where)
    elif expected is object:
        return
    elif expected is None:
        if value is not None:
            raise ValueError(f"{where}: got {_short(value)}, expected nothing")
    elif expected is float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{where}: got {_short(value)}, expected a finite number")
    elif type(value) is not expected:
        raise ValueError(f"{where}: got {_short(value)}, expected {expected.__name__}")


def _check_array(value: Any, expected: Array, where: str) -> None:
    if (
        not isinstance(value, Tensor)
        or expected.dtype not in (None, value.dtype)
        or value.ndim != len(expected.shape)
        or any(size not in (None, found) for size, found in zip(expected.shape, value.shape, strict=True))
    ):
        sizes = ", ".join("any" if size is None else str(size) for size in expected.shape)
        raise ValueError(f"{where}: got {_short(value)}, expected {expected.dtype or 'a tensor'} [{sizes}]")


def _check_sequence(value: Any, expected: "Each | list[Any]", where: str) -> None:
    items = expected if isinstance(expected, list) else None
    length = len(items) if items is not None else expected.length  # type: ignore[union-attr]
    if type(value) not in (list, tuple) or length not in (None, len(value)):
        raise ValueError(f"{where}: got {_short(value)}, expected {'a list' if length is None else f'{length} values'}")
    for index, part in enumerate(value):
        check(part, items[index] if items is not None else expected.item, f"{where}[{index}]")  # type: ignore[union-attr]


def _check_mapping(value: Any, expected: "Table | Mapping[Any, Any]", where: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: got {_short(value)}, expected a dict")
    if isinstance(expected, Table):
        expected = {key: expected.value for key in value if isinstance(key, str)}
    missing = [key for key in expected if key not in value]
    unknown = [key for key in value if key not in expected]
    if missing or unknown:
        found = " and ".join(
            f"{kind} {', '.join(map(repr, keys[:3]))}{' ...' if len(keys) > 3 else ''}"
            for kind, keys in (("without", missing), ("with", unknown))
            if keys
        )
        raise ValueError(f"{where}: got a dict {found}, expected {len(expected)} other keys")
    for key, part in expected.items():
        check(value[key], part, f"{where}.{key}")


def _short(value: Any) -> str:
    """Describe a value in a few words."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number above 2**63"
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
