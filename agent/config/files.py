"""Settings as text: a YAML file that anybody may have written, plain mappings only, or a value on the command line."""

import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import yaml

from agent.config.settings import Config
from world_model.settings import from_mapping

MAX_BYTES = 1 << 16  # a run's config.yaml has about 5,000
# 1e5 and 1.5e2, which YAML 1.1 takes for texts.
_EXPONENT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, which can make a small file huge, and without keys that come twice; 010 is ten."""

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

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A decimal number; ValueError for YAML 1.1's other ones (0x10, 1:30)."""
        return int(node.value, 10)


class _PlainDumper(yaml.SafeDumper):
    """Writes texts so that the loader takes them for texts."""


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)
for _side in (_PlainLoader, _PlainDumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


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

    write_whole(path, yaml.dump(values, Dumper=_PlainDumper, sort_keys=False).encode())


def parse_value(text: str, hint: Any) -> Any:
    """What a text on the command line says for a setting of type `hint`: itself where that is a text, else YAML.

    Where it is no YAML it stays the text, which the setting's check then refuses.
    """
    options = get_args(hint) or (hint,)
    is_number = int in options and text.isdecimal()
    if str in options and get_origin(hint) is not dict and not is_number:
        return None if NoneType in options and text in ("null", "~") else text
    try:
        return yaml.load(text, _PlainLoader) if text.strip() and text not in options else text
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def load_config(path: Path) -> Config:
    """Read a run's config.yaml. FileNotFoundError where there is none, ValueError where it is not ours."""
    try:
        return from_mapping(Config, read_yaml(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def save_config(config: Config, path: Path) -> None:
    """Write config.yaml."""
    write_yaml(path, asdict(config))
