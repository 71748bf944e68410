"""Train for long and see what a run holds: memory, file handles and processes, sampled all the while.

    python -m benchmarks.reliability.soak [--minutes 30] [--every 10] [--envs 2] [--preset cpu] [--json out.json]

A real `run_agent.py train` on `reaching` in a process of its own, with a replay that is full after a few minutes (its
memory is taken as it fills), a checkpoint every minute, evaluations and videos. At the end it is told to stop
(SIGTERM); no process that it started may be left. Growth is the slope of a line through the second half. Linux only.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.harness.command import Command, Report, rows_table
from benchmarks.reliability.processes import descendants, is_running, num_handles, resident_mb

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"env_frames": 10_000_000, "replay.capacity_steps": 1000, "train.checkpoint_minutes": 1, "threads": 1}
FIGURES = ("trainer_mb", "workers_mb", "handles", "processes")


def soak(given: argparse.Namespace, logdir: Path) -> dict[str, Any]:
    """Train, sample, stop; the samples [name -> list] and how the run ended."""
    settings = SETTINGS | {"env.num_envs": given.envs}
    options = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "run_agent.py", "train", "--task=reaching", f"--preset={given.preset}", "--quiet"]
    trainer = subprocess.Popen([*command, f"--logdir={logdir}", *options], cwd=ROOT)
    samples: dict[str, list[float]] = {name: [] for name in ("seconds", *FIGURES)}
    seen: set[int] = set()
    begun = time.monotonic()
    while time.monotonic() - begun < 60 * given.minutes and trainer.poll() is None:
        time.sleep(given.every)
        below = descendants(trainer.pid)
        seen |= set(below)
        row = (resident_mb(trainer.pid), sum(map(resident_mb, below)), num_handles(trainer.pid), len(below))
        for name, value in zip(samples, (time.monotonic() - begun, *row), strict=True):
            samples[name].append(value)
    trainer.send_signal(signal.SIGTERM)
    told = time.monotonic()
    status = trainer.wait(timeout=300)
    stopped = time.monotonic() - told
    time.sleep(5)  # for what ends a moment after its parent
    left = [pid for pid in seen if is_running(pid)]
    return {"samples": samples, "exit_status": status, "seconds_to_stop": stopped, "processes_left": len(left)}


def growth(samples: dict[str, list[float]]) -> list[dict[str, Any]]:
    """First, last, highest and growth an hour of every figure, over the second half of the samples."""
    half = len(samples["seconds"]) // 2
    hours = np.array(samples["seconds"][half:]) / 3600
    rows = []
    for name in FIGURES:
        values = np.array(samples[name][half:])
        slope = float(np.polyfit(hours, values, 1)[0])
        ends = {"first": values[0], "last": values[-1], "highest": values.max(), "growth_per_hour": slope}
        rows.append({"figure": name, **{key: round(float(value), 2) for key, value in ends.items()}})
    return rows


def measure(given: argparse.Namespace) -> Report:
    """Soak -> {"rows", "samples"} and how the run ended."""
    if given.every <= 0 or 60 * given.minutes < 4 * given.every:
        raise ValueError(f"minutes, every: got {given.minutes:g}, {given.every:g}, expected at least four samples")
    with TemporaryDirectory() as folder:
        found = soak(given, Path(folder) / "run")
    return {"rows": growth(found["samples"]), **found}


def show(console: Console, report: Report) -> None:
    """Print the growth of every figure, and how the run ended."""
    console.print(rows_table(report["rows"]))
    ends = ("exit_status", "seconds_to_stop", "processes_left")
    console.print(", ".join(f"{name} {report[name]:.1f}" for name in ends), highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, print, write; exit status 1 where the run failed or left processes."""
    command = Command("reliability.soak", __doc__)
    command.set_defaults(threads=1)
    command.add_argument("--minutes", type=float, default=30.0)
    command.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    command.add_argument("--envs", type=int, default=2, help="environments, in worker processes where more than one")
    command.add_argument("--preset", default="cpu")
    return command.run(
        arguments, measure, show, lambda report: report["exit_status"] == 0 and report["processes_left"] == 0
    )


if __name__ == "__main__":
    sys.exit(main())
