"""Short training runs in processes of their own, and whether two of them came to the same."""

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from agent.run_folder.checkpoint import load_newest
from agent.training.verification import unequal_places
from benchmarks.reliability.processes import is_running

SETTINGS = {"env_frames": 130, "replay.prefill_frames": 60, "replay.capacity_steps": 90, "train.train_ratio": 12}
SETTINGS |= {"train.eval_every": 30, "train.eval_episodes": 1, "train.video_frames": 0, "train.log_every": 7}
SETTINGS |= {"threads": 1, "train.checkpoint_minutes": 0.001}
CLOCKS = ("wall_seconds", "updates_per_second")
SAFE_SECONDS = 300.0
Injection = Callable[[], AbstractContextManager[Any]]


def start(
    logdir: Path, num_envs: int = 1, inject: Injection = nullcontext, quiet: bool = True, **changes: Any
) -> BaseProcess:
    """Begin or go on with a run in a process of its own, that has this one's modules and nothing of its state."""
    settings = SETTINGS | {"env.num_envs": num_envs} | {key.replace("__", "."): x for key, x in changes.items()}
    options = [f"--{name}={value}" for name, value in settings.items()]
    arguments = ["train", "--preset=debug", "--task=reaching", f"--logdir={logdir}", *["--quiet"] * quiet, *options]
    process = multiprocessing.get_context("fork").Process(target=_train, args=(arguments, logdir, inject))
    process.start()
    return process


def _train(arguments: list[str], logdir: Path, inject: Injection) -> None:
    import run_agent

    with open(logdir.with_suffix(".log"), "a", buffering=1, encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    with inject():
        sys.exit(run_agent.main(arguments))


def finish(process: BaseProcess) -> int:
    """The exit status of a run; 1,000 where it did not end within minutes."""
    process.join(SAFE_SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        return 1000
    return process.exitcode


def episodes(logdir: Path) -> dict[str, str]:
    """Name -> digest of the episodes that are finished."""
    found = sorted((logdir / "episodes").glob("*.ep"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def compare(straight: Path, other: Path, evaluations: bool = True) -> list[str]:
    """Where two runs differ: checkpoint, metrics, episodes; empty where they are the same bit for bit.

    `evaluations` says whether those count among the metrics.
    """
    left, right = (load_newest(logdir / "checkpoints")[0] for logdir in (straight, other))
    found = list(unequal_places(left, right, "checkpoint"))
    left_rows, right_rows = (
        [row for row in metrics(logdir) if evaluations or "eval_return" not in row] for logdir in (straight, other)
    )
    if left_rows != right_rows:
        found.append("metrics.jsonl")
    ours, theirs = (list(episodes(logdir).items()) for logdir in (straight, other))
    kept = min(len(ours), len(theirs))  # episodes that only older checkpoints know stay as long as those do
    if ours[-kept:] != theirs[-kept:] or right["replay"]["rows_added"] != left["replay"]["rows_added"]:
        found.append("episodes")
    return found


def metrics(logdir: Path) -> list[dict[str, Any]]:
    """The lines of a run, clocks left out."""
    rows = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


def lost_episodes(before: dict[str, str], logdir: Path) -> list[str]:
    """Episodes that were finished at a kill and are neither in the finished run nor older than all that it keeps."""
    now = episodes(logdir)
    oldest = min(now, default="")
    return [name for name, digest in before.items() if now.get(name) != digest and name >= oldest]


def text(logdir: Path) -> str:
    """What the run has written into metrics.jsonl."""
    path = logdir / "metrics.jsonl"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def wait_for_end(pids: Sequence[int], seconds: float = 10.0) -> list[int]:
    """Those of the processes that are still there after so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(is_running, pids)):
        time.sleep(0.1)
    return [pid for pid in pids if is_running(pid)]
