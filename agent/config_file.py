"""Reading settings out of a YAML file that anybody may have written: plain mappings only, every value of its type."""

import math
import types
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from world_model.config import from_mapping

MAX_BYTES = 1 << 16  # a run's config.yaml has about 5,000
MAX_TEXT = 1000  # characters of a setting


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, which can make a small file huge, and without keys that come twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node; an error where it has a name that others may refer to, or is such a reference."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "found an anchor or an alias", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping; an error where a key comes twice."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.constructor.ConstructorError(None, None, "found a key twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. FileNotFoundError where there is none, ValueError (one line, no path) where it is bad."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"got more than {MAX_BYTES} bytes, expected the settings of a run")
    try:
        return yaml.load(content, _PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"not readable as YAML ({' '.join(str(error).split())[:200]})") from None
    except RecursionError:
        raise ValueError("not readable as YAML (too deeply nested)") from None
    except ValueError as error:  # a number of too many digits, a day that is in no calendar
        raise ValueError(f"not readable as YAML ({str(error)[:200]})") from None


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Plain values into a file that is whole or the one of before; an OSError names it."""
    from replay.writing import write_whole  # replay imports torch, and a config is read before that is needed

    write_whole(path, yaml.safe_dump(values, sort_keys=False).encode())


def build(kind: type, values: Any) -> Any:
    """A dataclass of settings from a nested mapping. ValueError for unknown keys, and values of other types."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{kind.__name__}: got {_short(values)}, expected a mapping of settings")
    check_values(kind, values)
    return from_mapping(kind, values)


def check_values(kind: type, values: Mapping[Any, Any], prefix: str = "") -> None:
    """ValueError unless the values for the fields of dataclass `kind` are of their types, numbers finite.

    Unknown keys are left to whoever builds the dataclass.
    """
    known = {item.name: item for item in fields(kind)}
    for name, value in values.items():
        if not isinstance(name, str):
            raise ValueError(f"{prefix}{str(name)[:60]}: got a {type(name).__name__} as a key, expected a name")
        if name not in known:
            continue
        hint, nested = known[name].type, known[name].default_factory
        if is_dataclass(nested):
            if value is not None and not isinstance(value, Mapping):
                raise ValueError(f"{prefix}{name}: got {_short(value)}, expected a mapping of settings")
            check_values(nested, value or {}, f"{prefix}{name}.")
        elif not _is(value, hint):
            raise ValueError(f"{prefix}{name}: got {_short(value)}, expected {_name(hint)}")


def _is(value: Any, hint: Any) -> bool:
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return type(value) in (str, int) and value in options
    if origin in (Union, types.UnionType):
        return any(_is(value, option) for option in options)
    if origin is list:
        return isinstance(value, list) and len(value) <= MAX_TEXT and all(_is(part, options[0]) for part in value)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return (type(value) is int and abs(value) < 2**63) or (type(value) is float and math.isfinite(value))
    if hint is int:
        return type(value) is int and abs(value) < 2**63
    return type(value) is hint and (hint is not str or len(value) <= MAX_TEXT)


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    names = {float: "a finite number", int: "a whole number", bool: "true or false", str: "a short text"}
    if hint in names:
        return names[hint]
    return " or ".join(_name(option) for option in get_args(hint)) if get_origin(hint) is not list else "a list"


def _short(value: Any) -> str:
    text = f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
