"""Presets: the settings that fit a machine, with rows for single tasks; and sizes, which override any preset.

tasks.yaml has rows of settings for the tasks that fit a pattern, under any preset: the wrappers of Atari, for example.
Beside its settings a preset may have two blocks. `per_task` has such rows for this preset alone.
`per_frame` {train_ratio, discount_rate} says in env_frames how much is trained and how far returns look ahead, and the
action repeat of the run makes settings of it, for whichever of the two no row and no override sets:

    train.train_ratio = train_ratio x env.action_repeat
    behavior.gamma = 1 - discount_rate x env.action_repeat      (returns look 1 / discount_rate env_frames ahead)
"""

import fnmatch
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from agent.config.files import parse_value, read_yaml
from agent.config.nested import flatten, merge
from agent.config.settings import Config, EnvConfig
from world_model.config import WITHOUT_FRAMES
from world_model.settings import as_declared, declared, from_mapping, unknown_key

PRESET_FOLDER = Path(__file__).parent
SIZE_FILE, TASK_FILE = PRESET_FOLDER / "sizes.yaml", PRESET_FOLDER / "tasks.yaml"
ALIASES = {"seed": "reference"}  # earlier names of presets, still used by older runs and scripts
VECTORS_ALONE: dict[str, Any] = {f"world_model.{key}": value for key, value in WITHOUT_FRAMES.items()}
VECTORS_ALONE |= {"env.vector": True, "replay.shift": 0}  # what `env.size` 0 means for all settings that are not given
NOTED = {"started_from": "--from", "offline_data": "--offline"}  # settings that an option of `train` notes


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml") if path not in (SIZE_FILE, TASK_FILE))


def _read(file: Path) -> dict[str, Any]:
    """Return the settings in a file of the package, which the caller may change."""
    return deepcopy(_read_once(file))


@cache
def _read_once(file: Path) -> dict[str, Any]:
    """Parse a file of the package, once per process: PyYAML takes longer than building a small agent."""
    return read_yaml(file)


def load_size(name: str) -> dict[str, Any]:
    """Return the nested settings of a size such as "10m": widths, all pillars on.

    ValueError, with the nearest known name, for an unknown size.
    """
    sizes = _read(SIZE_FILE)
    if name not in sizes:
        raise ValueError(unknown_key(name, list(sizes), "size"))
    return sizes[name]


def load_preset(
    name: str, task: str | None = None, size: str | None = None, overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a preset's nested settings for a task: its own, then those of matching rows of tasks and of `size`.

    Nested or dotted `overrides` win over them; `env.size` 0 among these switches off, before the others, what needs
    frames. `per_frame` adds what then follows from the action repeat.
    ValueError, with the nearest known name, for an unknown preset or size.
    """
    file = ALIASES.get(name, name)
    if file not in preset_names():
        raise ValueError(unknown_key(name, preset_names(), "preset"))
    values = _read(PRESET_FOLDER / f"{file}.yaml")
    per_task, per_frame = values.pop("per_task", {}), values.pop("per_frame", None)
    task = task if task is not None else values.get("task", Config.task)
    for rows in (_read(TASK_FILE), per_task):
        for pattern, row in rows.items():
            if fnmatch.fnmatch(task.partition("?")[0], pattern):  # without the environment's arguments
                values = merge(values, row)
    if size is not None:
        values = merge(values, load_size(size))
    values |= {"preset": name, "task": task, "size": size}
    if dict(flatten(overrides or {})).get("env.size") == 0:
        values = merge(values, VECTORS_ALONE)
    values = merge(values, overrides or {})
    if values.get("algo", "aime") != "aime" and values["env"].get("vector") is None:  # baselines see frames alone
        values = merge(values, {"env.vector": False})
    return values if per_frame is None else _with_repeat(values, **per_frame)


def _with_repeat(values: dict[str, Any], train_ratio: float, discount_rate: float) -> dict[str, Any]:
    """Return nested settings with the train ratio and the discount of their action repeat, where they have none."""
    env = values.get("env")
    repeat = from_mapping(EnvConfig, {} if env is None else env, "env.").action_repeat
    gamma = 1 - discount_rate * repeat
    resolved = merge({"train": {"train_ratio": train_ratio * repeat}, "behavior": {"gamma": gamma}}, values)
    if gamma <= 0 and dict(flatten(resolved)).get("behavior.gamma") == gamma:
        bound = f"below {1 / discount_rate:g}, as far as returns look ahead"
        raise ValueError(f"env.action_repeat: got {repeat}, expected a number {bound}, or a behavior.gamma beside it")
    return resolved


def make_config(preset: str, task: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the preset's config with dotted overrides: make_config("cpu", "walker_walk", {"replay.batch_size": 8}).

    A "size" among the overrides is applied before the others.
    """
    size = as_declared("size", (overrides or {}).get("size"), str | None)
    preset, task = as_declared("preset", preset, str), as_declared("task", task, str | None)
    return from_mapping(Config, load_preset(preset, task, size, overrides))


def parse_overrides(arguments: Sequence[str], preset: str, task: str | None = None, size: str | None = None) -> Config:
    """Return the config of a preset, a size and `--any.key value` arguments. A one-line ValueError if one is invalid.

    A `--size` among the arguments replaces `size`; the other arguments override its widths.
    """
    return make_config(preset, task, {"size": size} | parse_settings(arguments))


def parse_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of `--any.key value` arguments by key. A one-line ValueError if one is invalid."""
    hints = declared(Config)
    return {key: parse_value(text, hints[key]) for key, text in setting_texts(arguments).items()}


def setting_texts(arguments: Sequence[str]) -> dict[str, str]:
    """Return the texts of `--any.key value` arguments by key, unparsed. A one-line ValueError for an unknown key."""
    known, texts = list(declared(Config)), dict[str, str]()
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            raise ValueError(f"got '{argument}', expected settings like --replay.batch_size 8")
        key, is_joined, text = argument[2:].partition("=")
        if key not in known:
            raise ValueError(unknown_key(key, known))
        if key in NOTED:
            raise ValueError(f"{key}: got a value, expected none: `train {NOTED[key]}` notes it")
        if not is_joined:
            text = next(rest, "--")
            if text.startswith("--"):
                raise ValueError(f"{key}: got no value, expected one after it")
        texts[key] = text
    return texts
