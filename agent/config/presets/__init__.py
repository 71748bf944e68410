"""Presets: the settings that fit a machine, with rows for single tasks, and the sizes that go over any of them."""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.config.files import parse_value, read_yaml
from agent.config.nested import merge, nest
from agent.config.settings import Config
from world_model.settings import as_declared, check_key, declared, from_mapping, unknown_key

PRESET_FOLDER = Path(__file__).parent
SIZE_FILE = PRESET_FOLDER / "sizes.yaml"
ALIASES = {"seed": "reference"}  # earlier names of presets, which runs and scripts of then still say


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml") if path != SIZE_FILE)


def load_size(name: str) -> dict[str, Any]:
    """Nested settings of a size such as "10m": widths, all pillars on. ValueError, naming the nearest, on others."""
    sizes = read_yaml(SIZE_FILE)
    if name not in sizes:
        raise ValueError(unknown_key(name, list(sizes), "size"))
    return sizes[name]


def load_preset(name: str, task: str | None = None, size: str | None = None) -> dict[str, Any]:
    """Nested settings of a preset for a task: the file's, those under every `per_task` pattern that fits, a size's.

    ValueError on an unknown preset or size, naming the nearest.
    """
    file = ALIASES.get(name, name)
    if file not in preset_names():
        raise ValueError(unknown_key(name, preset_names(), "preset"))
    values: dict[str, Any] = read_yaml(PRESET_FOLDER / f"{file}.yaml")
    per_task = values.pop("per_task", {})
    task = task if task is not None else values.get("task", Config.task)
    for pattern, overrides in per_task.items():
        if fnmatch.fnmatch(task.partition("?")[0], pattern):  # whatever the environment's arguments
            values = merge(values, overrides)
    if size is not None:
        values = merge(values, load_size(size))
    return values | {"preset": name, "task": task, "size": size}


def make_config(preset: str, task: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The preset's config with dotted overrides: make_config("cpu", "walker_walk", {"replay.batch_size": 8}).

    They win over the widths of a "size" among them.
    """
    overrides = overrides or {}
    size = as_declared("size", overrides.get("size"), str | None)
    values = load_preset(as_declared("preset", preset, str), as_declared("task", task, str | None), size)
    for key, value in overrides.items():
        check_key(key)
        values = merge(values, nest(key, value))
    return from_mapping(Config, values)


def parse_overrides(arguments: Sequence[str], preset: str, task: str | None = None, size: str | None = None) -> Config:
    """Config from `--any.key value` arguments on top of a preset and a size; ValueError in one line.

    A `--size` among the arguments takes the place of `size`; the other arguments win over its widths.
    """
    hints, values = declared(Config), {"size": size}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            raise ValueError(f"got '{argument}', expected settings like --replay.batch_size 8")
        key, is_joined, text = argument[2:].partition("=")
        if key not in hints:
            raise ValueError(unknown_key(key, list(hints)))
        if not is_joined:
            text = next(rest, "--")
            if text.startswith("--"):
                raise ValueError(f"{key}: got no value, expected one after it")
        values[key] = parse_value(text, hints[key])
    return make_config(preset, task, values)
