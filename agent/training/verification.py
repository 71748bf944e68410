"""Verification of exact resume: an interrupted and an uninterrupted run in real processes, compared bit for bit."""

import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from agent.config.files import save_config
from agent.config.settings import Config
from agent.run_folder.checkpoint import load_newest
from agent.run_folder.logger import read_metrics
from agent.training.threads import choose_threads, one_update
from envs.tasks import SUITE_TASKS, base_task

PROGRAM = Path(__file__).resolve().parents[2] / "run_agent.py"
CLOCKS = ("wall_seconds", "updates_per_second")  # may differ between identical runs
_EPISODE_FRAMES = 1010  # env_frames, longer than an episode of any task of the suite
_PATIENCE_SECONDS = 600.0  # for a process to start


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison: the numbers of compared items, and the places where the two runs differ."""

    updates: int
    tensors: int
    lines: int
    stops: tuple[str, ...]
    differences: tuple[str, ...]


def short_config(config: Config, updates: int) -> Config:
    """Return the config of a run of about `updates` updates, with an evaluation of one episode in its middle."""
    replay, train = config.replay, config.train
    # Long enough for an episode to end, so that a resumed run reads rows from disk and not only running episodes.
    prefill = _EPISODE_FRAMES * config.env.num_envs if base_task(config.task) in SUITE_TASKS else replay.prefill_frames
    decisions = math.ceil(updates * replay.batch_size * replay.batch_length / train.train_ratio)
    learning = decisions * config.env.action_repeat
    clocks = replace(train, eval_every=prefill + learning // 2, eval_episodes=1, video_frames=0, checkpoint_minutes=0.1)
    return replace(
        config,
        env_frames=prefill + learning,
        replay=replace(replay, prefill_frames=prefill),
        train=replace(
            clocks,
            log_every=max(1, min(train.log_every, updates // 4)),
            final_updates=min(train.final_updates, updates // 4),
        ),
    )


def verify_resume(config: Config, folder: Path, stops: int, seed: int, tell: Callable[[str], None]) -> Verdict:
    """Train `config` in folder/straight, and in folder/stopped with `stops` interruptions at random times; compare.

    Every second interruption is a kill -9, the others are SIGTERM. RuntimeError if a run fails.
    """
    config = replace(config, threads=choose_threads(config, one_update).count)  # two measurements might differ
    straight, stopped = folder / "straight", folder / "stopped"
    for logdir in (straight, stopped):
        logdir.mkdir(parents=True)
        save_config(config, logdir / "config.yaml")
    begun = time.monotonic()
    _wait(_start(straight))
    seconds = time.monotonic() - begun
    tell(f"straight run: {config.env_frames:,} env_frames in {seconds:.0f} s")
    made = []
    chance = random.Random(seed)
    for number in range(stops):
        name = ("SIGTERM", "SIGKILL")[number % 2]
        process = _start(stopped)
        if not _stop_later(process, stopped, name, chance.uniform(0.1, 0.9) * seconds / stops):
            tell("the stopped run ended before the next stop")
            break
        made.append(name)
        tell(f"stopped by {name} at {_env_frames(stopped):,} env_frames")
    _wait(_start(stopped))
    return _compare(straight, stopped, tuple(made))


def _start(logdir: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROGRAM), "train", "--logdir", str(logdir), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _wait(process: "subprocess.Popen[str]") -> None:
    _, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the run failed with status {process.returncode}: {errors.strip().splitlines()[-1:]}")


def _stop_later(process: "subprocess.Popen[str]", logdir: Path, name: str, seconds: float) -> bool:
    """Let a process train for `seconds`, then stop it; return False if it ended before."""
    log = logdir / "metrics.jsonl"
    before = log.stat().st_mtime_ns if log.is_file() else None
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and (not log.is_file() or log.stat().st_mtime_ns == before):
        if time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the run did not begin within {_PATIENCE_SECONDS:.0f} s")
        time.sleep(0.05)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.Signals[name])
        process.communicate()
        return True
    _wait(process)
    return False


def _env_frames(logdir: Path) -> int:
    return max((row["env_frames"] for row in read_metrics(logdir / "metrics.jsonl")), default=0)


def _compare(straight: Path, stopped: Path, stops: tuple[str, ...]) -> Verdict:
    left, right = (load_newest(logdir / "checkpoints")[0] for logdir in (straight, stopped))
    lines = [[_timeless(row) for row in read_metrics(logdir / "metrics.jsonl")] for logdir in (straight, stopped)]
    found = list(unequal_places(left, right, "checkpoint"))
    if lines[0] != lines[1]:
        pairs = zip(*lines, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(map(len, lines)))
        found.append(f"metrics.jsonl, line {first + 1}")
    tensors = sum(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(left))
    return Verdict(left["agent"]["updates"], tensors, len(lines[0]), stops, tuple(found))


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in CLOCKS}


def unequal_places(left: Any, right: Any, where: str) -> Sequence[str]:
    """Return the places where two nested values are not identical bit for bit, except CLOCKS."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        names = [name for name in left if name not in CLOCKS]
        return [place for name in names for place in unequal_places(left[name], right[name], f"{where}.{name}")]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [place for i, (a, b) in pairs for place in unequal_places(a, b, f"{where}[{i}]")]
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return [] if left.dtype == right.dtype and torch.equal(left, right) else [where]
    return [] if type(left) is type(right) and left == right else [where]
