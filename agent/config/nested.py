"""Nested settings and their dotted keys."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_origin

from agent.config.settings import MAY_CHANGE, Config
from world_model.settings import Settings, check_key, declared

MAPPINGS = tuple(key for key, hint in declared(Config).items() if get_origin(hint) is dict)


def differences(old: Config, new: Config, allowed: Sequence[str] = MAY_CHANGE) -> list[str]:
    """Return the keys in which two configs differ, except the `allowed` ones: ["seed: 0 -> 1", ...]."""
    left, right = dict(flatten(asdict(old))), dict(flatten(asdict(new)))
    return [f"{k}: {left.get(k)} -> {right[k]}" for k in right if left.get(k) != right[k] and k not in allowed]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and leaves of nested settings; settings that are mappings (MAPPINGS) count as leaves."""
    for key, value in values.items():
        if isinstance(value, Settings):
            value = vars(value)
        if isinstance(value, Mapping) and f"{prefix}{key}" not in MAPPINGS:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def nest(key: str, value: Any) -> dict[str, Any]:
    """Return {"a": {"b": value}} for the key "a.b"."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def merge(base: Mapping[str, Any], changes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return `base` updated with nested or dotted `changes`; a block that is None changes nothing.

    A setting that is itself a mapping is replaced as a whole. ValueError for a key that is no string.
    """
    merged = dict(base)
    for key, value in changes.items():
        check_key(key, prefix)
        first, _, rest = key.partition(".")
        if rest:
            value = nest(rest, value)
        is_block = isinstance(value, Mapping | None) and isinstance(merged.get(first), Mapping)
        is_block = is_block and f"{prefix}{first}" not in MAPPINGS
        merged[first] = merge(merged[first], value or {}, f"{prefix}{first}.") if is_block else value
    return merged
