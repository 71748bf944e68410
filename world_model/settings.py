"""The base class of all blocks of settings: every value is plain Python of its declared type.

Values are checked when a block is created, so from files, the command line, `dataclasses.replace` and anywhere else.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import numpy as np

_MAX_LENGTH = 1000  # characters of a string, values of a list
_MAX_INTEGER = 2**63
_WHOLE: dict[Any, str] = {int: "a positive integer", int | None: "a positive integer or null"}
_REFUSED = object()
_NAMES = {  # singular, plural
    float: ("a finite number", "finite numbers"),
    int: ("a whole number", "whole numbers"),
    bool: ("true or false", "truth values"),
    str: ("a short text", "short texts"),
    NoneType: ("null", "nulls"),
}


class Settings:
    """The base of the frozen dataclasses of settings; a nested block may be given as a mapping.

    Whole floats and numpy scalars become plain numbers. A value of another type, or one that is not finite, raises a
    one-line ValueError "key: got X, expected Y".
    """

    least: ClassVar[int | None] = None  # lower bound of the block's whole numbers, unless a field has its own

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if is_dataclass(item.type):
                value = from_mapping(item.type, value, f"{item.name}.")  # type: ignore[arg-type]
            else:
                value = as_declared(item.name, value, item.type, item.metadata.get("least", self.least))
            object.__setattr__(self, item.name, value)


def as_declared(name: str, value: Any, hint: Any, least: int | None = None) -> Any:
    """Return a value as plain Python of type `hint`, whole numbers of at least `least`; ValueError with its name."""
    plain = _plain(value, hint)
    is_low = hint in _WHOLE and least is not None and isinstance(plain, int) and plain < least
    if plain is _REFUSED or is_low:
        expected = _WHOLE[hint] if hint in _WHOLE and least == 1 else _describe(hint)
        raise ValueError(f"{name}: got {short(value)}, expected {expected}")
    return plain


def _plain(value: Any, hint: Any) -> Any:
    """Return a value as plain Python of a type, or _REFUSED if it is of another type."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if hint is Any:  # any JSON value
        kinds: dict[type, Any] = {list: list[Any], tuple: list[Any], dict: dict[str, Any]}
        hint = type(value) if type(value) in _NAMES else kinds.get(type(value))
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return next((found for option in options if (found := _plain(value, option)) is not _REFUSED), _REFUSED)
    if origin is Literal:
        return next((option for option in options if _plain(value, type(option)) == option), _REFUSED)
    if origin is list:
        if not isinstance(value, list | tuple) or len(value) > _MAX_LENGTH:
            return _REFUSED
        parts = [_plain(part, options[0]) for part in value]
        return _REFUSED if _REFUSED in parts else parts
    if origin is dict:
        if not isinstance(value, Mapping) or any(type(key) is not str for key in value):
            return _REFUSED
        found = {key: _plain(part, options[1]) for key, part in value.items()}
        return _REFUSED if _REFUSED in found.values() else found
    if hint is float and type(value) is int and abs(value) < _MAX_INTEGER:
        value = float(value)
    elif hint is int and type(value) is float and value.is_integer():
        value = int(value)
    fits = (
        type(value) is hint
        and (hint is not float or math.isfinite(value))
        and (hint is not int or abs(value) < _MAX_INTEGER)
        and (hint is not str or len(value) <= _MAX_LENGTH)
    )
    return value if fits else _REFUSED


def _describe(hint: Any, many: bool = False) -> str:
    """Describe a declared type in words."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if get_origin(hint) is list:
        return f"{'lists' if many else 'a list'} of {_describe(get_args(hint)[0], many=True)}"
    if get_origin(hint) is dict:
        return "a mapping of plain values"
    if hint in _NAMES:
        return _NAMES[hint][many]
    return " or ".join(_describe(option) for option in get_args(hint))


def short(value: Any) -> str:
    """Describe a value in a few words on one line."""
    text = f"a {type(value).__name__}" if isinstance(value, list | tuple | dict) else " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def from_mapping(kind: type, values: Any, prefix: str = "") -> Any:
    """Build the block of settings `kind` from a nested mapping; a block that is None gets its defaults.

    ValueError for an unknown key, naming the nearest one, and for a value that its block refuses.
    """
    if isinstance(values, kind):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"{prefix.rstrip('.') or kind.__name__}: got {short(values)}, expected a mapping of settings")
    known: dict[str, Any] = {item.name: item.type for item in fields(kind)}
    built = {}
    for name, value in values.items():
        check_key(name, prefix)
        if name not in known:
            raise ValueError(unknown_key(prefix + name, [prefix + key for key in (*known, *declared(kind))]))
        if is_dataclass(known[name]):
            value = from_mapping(known[name], {} if value is None else value, f"{prefix}{name}.")
        built[name] = value
    try:
        return kind(**built)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def check_key(key: Any, prefix: str = "") -> None:
    """Raise ValueError unless the key of a setting is a string."""
    if not isinstance(key, str):
        raise ValueError(f"{prefix}{short(key)}: got a {type(key).__name__} as a key, expected a name")


def declared(kind: type) -> dict[str, Any]:
    """Return dotted key -> declared type of every setting of a block, including nested blocks."""
    return dict(_walk(kind, ""))


def _walk(kind: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for item in fields(kind):
        if is_dataclass(item.type):
            yield from _walk(item.type, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            yield prefix + item.name, item.type


def unknown_key(name: str, known: list[str], kind: str = "key") -> str:
    """Return a line for an unknown name of a `kind`, with the nearest known one."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"unknown {kind} '{name}'; the nearest known one is '{nearest[0]}'"
