"""Loading a run from its folder: its newest good checkpoint and its settings."""

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeGuard

from agent.config.files import load_config, read_yaml
from agent.config.nested import differences, flatten
from agent.config.settings import Config
from agent.learning.agent import Agent, choose_device
from agent.run_folder.agent_file import fingerprint, is_agent_file, read_agent_file
from agent.run_folder.checkpoint import checkpoint_paths, load_checkpoint, load_newest
from agent.run_folder.contents import check_payload, is_baseline, saved_config
from agent.run_folder.model_file import File, read_model
from agent.run_folder.places import find_agent, is_named
from agent.run_folder.shards import of_rank
from agent.run_folder.weights import Start, weights_of

log = logging.getLogger(__name__)


def load_run(logdir: Path) -> dict[str, Any]:
    """Return the payload of a run's newest good checkpoint, on the CPU.

    FileNotFoundError if there is no checkpoint, ValueError if none is good.
    """
    return load_newest(logdir / "checkpoints", "cpu", check_payload)[0]


def is_run(place: object) -> TypeGuard[str | os.PathLike[str]]:
    """Return whether `place` is the path of a folder with a run, or with parts of one."""
    if not isinstance(place, str | os.PathLike):
        return False
    return (Path(place) / "config.yaml").is_file() or (Path(place) / "checkpoints").is_dir()


def load_agent(logdir: File, device: str | None = None) -> Agent:
    """Load the agent of a run from its newest good checkpoint, with the average of its weights if there is one.

    Also taken: a file of `run_agent.py export`, "pretrained:NAME" for one that comes with the package, "hub:user/name",
    and a file of `agent.AIME.save`. FileNotFoundError if `logdir` is none of these, ValueError for a baseline's run, an
    unknown name and a damaged file.
    """
    if is_named(logdir):
        logdir = find_agent(logdir)
    if is_agent_file(logdir):
        return read_agent_file(Path(logdir)).agent(device)
    chosen = choose_device(device if device is not None else "auto")
    if is_run(logdir):
        config, payload = load_agent_run(logdir, log.warning)
    else:
        try:
            payload = read_model(logdir)
        except FileNotFoundError:
            expected = "expected a folder with a run (no config.yaml in it), or a file of an agent"
            raise FileNotFoundError(f"logdir: got {str(logdir)!r}, {expected}") from None
        config = saved_config(payload)
    state = payload["agent"]
    agent = Agent(config, state["action_dim"], str(chosen), is_discrete=state["is_discrete"])
    agent.load_state_dict(state)
    agent.average.swap()
    return agent


def load_agent_run(place: str | os.PathLike[str], tell: Callable[[str], None]) -> tuple[Config, dict[str, Any]]:
    """Return `run_config` of our agent's run. FileNotFoundError without a checkpoint, ValueError for a baseline."""
    logdir = Path(place)
    config, payload = run_config(logdir, tell)
    if payload is None:
        raise FileNotFoundError(f"no checkpoint in {logdir / 'checkpoints'}")
    if is_baseline(payload):
        raise ValueError(
            f"logdir: got {str(logdir)!r}, a run of {config.algo}; agent.load loads it, expected one of aime"
        )
    return config, payload


def starting_point(place: str) -> Start:
    """Return what `train --from` starts from: a run's folder, or whatever names an agent; errors as in `load_agent`."""
    path = Path(place)
    if not is_run(place):
        if path.is_dir():
            raise ValueError(f"from: got '{place}', a folder without a run, expected a run's folder or an agent's file")
        path = find_agent(place)
    agent = load_agent(path, "cpu")
    name = fingerprint(path) if path.is_file() else f"{path.resolve().name}/{_checkpoint_name(path, agent)}"
    return Start(name, agent.config, agent.action_dim, agent.is_discrete, weights_of(agent))


def _checkpoint_name(logdir: Path, agent: Agent) -> str:
    """Return the fingerprint of the checkpoint that an agent was loaded from; it is named by its updates."""
    return fingerprint(logdir / "checkpoints" / f"{agent.updates:09d}.pt")


def trained_frames(place: Path) -> int:
    """Return the env_frames of a run's newest good checkpoint, or of an agent in a file."""
    return read_agent_file(place).card.env_frames if is_agent_file(place) else load_run(place)["counters"]["env_frames"]


def first_episodes(logdir: Path, rank: int = 0) -> list[int]:
    """Return the number of the oldest episode that each good checkpoint of a run needs, of the episodes of one rank."""
    numbers = []
    for path in checkpoint_paths(logdir / "checkpoints"):
        with contextlib.suppress(ValueError, OSError, KeyError, TypeError, IndexError):
            numbers += of_rank(load_checkpoint(path), rank)["replay"]["episodes"]["number"][:1].tolist()
    return numbers


def run_config(logdir: Path, tell: Callable[[str], None]) -> tuple[Config, dict[str, Any] | None]:
    """Return the config of an existing run, and the payload of its newest good checkpoint if there is one.

    Keys of `MAY_CHANGE` that differ are taken from config.yaml, and a missing or damaged config.yaml is replaced by the
    checkpoint's config; `tell` gets a line about either. ValueError if config.yaml differs in other keys, or is damaged
    and there is no checkpoint.
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
        raise ValueError(f"{line}, expected the same; remove the file to resume with those of the checkpoint")
    for change in differences(saved, written, ()):
        tell(f"{path}: changed since the checkpoint: {change}")
    return written, payload


def _check_complete(path: Path) -> None:
    """Raise ValueError unless a config.yaml names every setting: a truncated file would silently change the run."""
    named = dict(flatten(read_yaml(path)))
    missing = [key for key, _ in flatten(asdict(Config())) if key not in named]
    if missing:
        raise ValueError(f"{path}: got no {missing[0]}, expected every setting; remove the file to start a new run")
