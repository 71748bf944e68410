"""A run as its folder has it: the newest checkpoint that is whole, and the settings it goes on with."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeGuard

from agent.checkpoint import checkpoint_paths, load_checkpoint, load_newest
from agent.config import Config, differences, flatten, load_config
from agent.config_file import read_yaml
from agent.run_state import check_payload, is_baseline, saved_config


def load_run(logdir: Path) -> dict[str, Any]:
    """The payload of a run's newest checkpoint that is whole in every part, on the CPU.

    FileNotFoundError where there is none, ValueError where none is good.
    """
    return load_newest(logdir / "checkpoints", "cpu", check_payload)[0]


def is_run(place: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether this is the path of a folder with a run, or with what is left of one."""
    if not isinstance(place, str | os.PathLike):
        return False
    return (Path(place) / "config.yaml").is_file() or (Path(place) / "checkpoints").is_dir()


def load_agent_run(place: str | os.PathLike[str], tell: Callable[[str], None]) -> tuple[Config, dict[str, Any]]:
    """`run_config` of a run that has an agent: FileNotFoundError without a checkpoint, ValueError for a baseline's."""
    logdir = Path(place)
    config, payload = run_config(logdir, tell)
    if payload is None:
        raise FileNotFoundError(f"no checkpoint in {logdir / 'checkpoints'}")
    if is_baseline(payload):
        raise ValueError(f"logdir: got {str(logdir)!r}, a run of {config.algo}; agent.baselines.Baseline loads it")
    return config, payload


def first_episodes(logdir: Path) -> list[int]:
    """The number of the oldest episode that each checkpoint of a run needs, bad ones left out."""
    numbers = []
    for path in checkpoint_paths(logdir / "checkpoints"):
        with contextlib.suppress(ValueError, OSError, KeyError, TypeError):
            numbers += load_checkpoint(path)["replay"]["episodes"]["number"][:1].tolist()
    return numbers


def run_config(logdir: Path, tell: Callable[[str], None]) -> tuple[Config, dict[str, Any] | None]:
    """The config of a run that exists, and its newest good checkpoint where there is one.

    Where config.yaml differs in keys of `agent.config.MAY_CHANGE`, it is the file's. `tell` gets a line about that, and
    about a config.yaml that is missing or damaged: then it is the checkpoint's. ValueError where the file differs in
    other keys, or is damaged and there is no checkpoint.
    """
    path = logdir / "config.yaml"
    payload = load_run(logdir) if checkpoint_paths(logdir / "checkpoints") else None
    try:
        written = load_config(path)
    except (ValueError, OSError) as error:
        if payload is None or is_baseline(payload):
            raise
        fault = f"{path}: missing" if isinstance(error, FileNotFoundError) else str(error)
        tell(f"{fault}; the settings are those of the checkpoint")
        return saved_config(payload), payload
    if payload is None:
        _check_complete(path)
    if payload is None or (is_baseline(payload) and written.algo != "aime"):
        return written, payload
    if is_baseline(payload):
        raise ValueError(f"{path}: algo: got 'aime', expected that of the checkpoint, a baseline's")
    saved = saved_config(payload)
    wrong = differences(saved, written)
    if wrong:
        line = f"{path}: got other settings than its checkpoint's ({'; '.join(wrong)})"
        raise ValueError(f"{line}, expected the same; remove the file to go on with those of the checkpoint")
    for change in differences(saved, written, ()):
        tell(f"{path}: since the checkpoint {change}")
    return written, payload


def _check_complete(path: Path) -> None:
    """ValueError unless a config.yaml names every setting: one that was cut short would be another run's."""
    named = dict(flatten(read_yaml(path)))
    missing = [key for key, _ in flatten(asdict(Config())) if key not in named]
    if missing:
        raise ValueError(f"{path}: got no {missing[0]}, expected every setting; remove the file to begin a new run")
