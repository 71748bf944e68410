"""Settings as text: untrusted YAML files of plain mappings, and values on the command line."""

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
# 1e5 and 1.5e2, which YAML 1.1 reads as strings.
_EXPONENT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")


class _PlainLoader(yaml.SafeLoader):
    """A loader that refuses aliases, which can make a small file huge, and duplicate keys, and reads 010 as ten."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node; raise an error for an anchor or an alias."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "found an anchor or an alias", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping; raise an error for a duplicate key."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.constructor.ConstructorError(None, None, "found a duplicate key", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read a decimal number; ValueError for YAML 1.1's other notations (0x10, 1:30)."""
        return int(node.value, 10)


class _PlainDumper(yaml.SafeDumper):
    """A dumper that quotes strings which the loader would read as numbers."""


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)
for _side in (_PlainLoader, _PlainDumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def read_yaml(path: Path) -> Any:
    """Read a YAML file. FileNotFoundError if there is none; a one-line ValueError without the path if it is invalid."""
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
    except ValueError as error:  # a number with too many digits, an impossible date
        raise ValueError(f"not readable as YAML ({str(error)[:200]})") from None


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values atomically; an OSError names the file."""
    from replay.writing import write_whole  # replay imports torch, which reading a config does not need

    write_whole(path, yaml.dump(values, Dumper=_PlainDumper, sort_keys=False).encode())


def parse_value(text: str, hint: Any) -> Any:
    """Parse a command-line value for a setting of type `hint`: strings are kept as they are, others are read as YAML.

    Text that is not YAML is returned unchanged, and the setting's check then refuses it.
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
    """Read a run's config.yaml. FileNotFoundError if there is none, ValueError if it is not a valid config."""
    try:
        return from_mapping(Config, read_yaml(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def save_config(config: Config, path: Path) -> None:
    """Write config.yaml."""
    write_yaml(path, asdict(config))
