"""Settings of a run that a benchmark changes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from agent.config.nested import flatten, merge
from agent.config.presets import parse_overrides
from agent.config.settings import Config
from benchmarks.harness.command import parse_settings
from world_model.settings import from_mapping


def parse_changes(settings: Sequence[str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """What --set says, {key: value}. ValueError in one line for a key without one of the prefixes."""
    changes = parse_settings(settings, ("seed", "threads"))
    for key in changes:
        if not key.startswith(prefixes):
            raise ValueError(f"set: got '{key}', expected a key of {', '.join(prefixes)}")
    return changes


def with_changes(base: Config, changes: Mapping[str, str]) -> Config:
    """The config with other values of some keys, in the form they have on a command line. ValueError in one line."""
    parsed = parse_overrides([f"--{key}={value}" for key, value in changes.items()], base.preset, base.task)
    typed = dict(flatten(asdict(parsed)))
    return from_mapping(Config, merge(asdict(base), {key: typed[key] for key in changes}))
