"""One gradient step (world model, actor, critic) of another Dreamer and of ours: same machine, taking turns.

    python -m benchmarks.speed.peers --peer r2dreamer --checkout ~/r2dreamer [--python ~/r2dreamer/.venv/bin/python]
        [--batch 16] [--length 64] [--threads 2] [--repeats 5] [--device cpu] [--precision bfloat16] [--json out.json]

--checkout is a copy of the peer that you bring, --python the interpreter its packages are installed in: r2dreamer
(github.com/NM512/r2dreamer, `model.rep_loss=dreamer`, size12M) or dreamerv3-torch (github.com/NM512/dreamerv3-torch,
`dmc_vision`). Every side is a process of its own (peer_update.py) with the same number of threads; all but one wait.
Ours has the peer's number of parameters (--size) and all pillars and RGB on, and is there twice: "same work" decodes
every frame, attends to every frame, dreams 15 steps from every frame at every update and overshoots nothing, and its
actor learns as the peer's does; "as preset" leaves all that to the preset. A turn of ours is as many updates as
gradient balancing makes from one solve to the next. Seconds are medians over --repeats turns.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from agent.config.presets import load_size, make_config
from agent.learning.agent import choose_device
from benchmarks.harness.command import Command, Failed, Report

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"r2dreamer": "10m", "dreamerv3-torch": "18m"}  # ours beside each peer
GRADIENTS = {"r2dreamer": "reinforce", "dreamerv3-torch": "dynamics"}  # how each peer's actor learns
SAME_WORK = {
    "world_model.decoder_config.train_fraction": 1.0,
    "world_model.perceiver_config.train_fraction": 1.0,
    "world_model.attention_config.train_fraction": 1.0,
    "world_model.overshoot": None,
    "behavior.start_fraction": 1.0,
    "behavior.every": 1,
    "behavior.horizon": 15,
}


class Side:
    """An agent in a process of its own, which makes updates when it is told to."""

    def __init__(self, side: str, python: str, task: dict[str, Any]) -> None:
        """Start the process. OSError where there is no such interpreter."""
        script = str(Path(__file__).with_name("peer_update.py"))
        self.name = side
        self.process = subprocess.Popen(
            [python, script, side, json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(task["threads"])},
        )

    def describe(self) -> dict[str, Any]:
        """Parameters, configuration and versions, first of all, once the agent is built. Failed if it fails."""
        return self._read()

    def turn(self) -> float:
        """Seconds of one update, the mean over a turn."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("update\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # reading says so
        return self._read()["seconds"]

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.name}: its process ended; what it said is above")
        return json.loads(line)


def take_turns(sides: dict[str, Side], repeats: int) -> dict[str, list[float]]:
    """Every side `repeats` turns, one side at a time, after two each that warm up -> seconds per update."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 2):
        for name, side in sides.items():
            taken = side.turn()
            if turn >= 2:
                seconds[name].append(taken)
    return seconds


def summary(descriptions: dict[str, dict[str, Any]], seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Per side: its description, seconds and their median; and how it stands beside the first side, the peer."""
    peer = next(iter(descriptions))
    found: dict[str, dict[str, Any]] = {}
    for name, description in descriptions.items():
        shown = description | {"seconds": seconds[name], "median_seconds": median(seconds[name])}
        shown["parameters_by_peer"] = description["parameters"] / descriptions[peer]["parameters"]
        shown["updates_per_second_by_peer"] = median(seconds[peer]) / shown["median_seconds"]
        found[name] = shown
    return found


def measure(given: argparse.Namespace) -> Report:
    """Run everything -> {"settings", "sides"}."""
    if not given.checkout.is_dir():
        raise ValueError(f"checkout: got {str(given.checkout)!r}, expected a folder")
    if given.size is not None:
        load_size(given.size)
    device = choose_device(given.device)
    preset = given.preset if given.preset is not None else ("gpu" if device.type == "cuda" else "cpu")
    size = given.size if given.size is not None else SIZES[given.peer]
    config = make_config(preset, "walker_walk", {"size": size})
    precision = given.precision if given.precision is not None else config.precision
    sizes = {"batch": given.batch, "length": given.length, "threads": given.threads, "device": device.type}
    sizes["compile"] = given.compile or device.type == "cuda"
    theirs = sizes | {"checkout": str(given.checkout.absolute()), "updates": 1}
    ours = sizes | {"checkout": str(ROOT), "preset": preset, "size": size}
    ours["updates"] = config.update_round
    tasks = {given.peer: (given.peer, given.python, theirs)}
    for work in ("same work", "as preset") if given.work is None else (given.work,):
        same = SAME_WORK | {"behavior.gradient": GRADIENTS[given.peer]}
        overrides = {"precision": precision} | (same if work == "same work" else {})
        tasks[f"ours, {work}"] = ("aime", sys.executable, ours | {"overrides": overrides})
    with ExitStack() as running:
        sides = {name: running.enter_context(Side(*task)) for name, task in tasks.items()}
        descriptions = {name: side.describe() for name, side in sides.items()}
        seconds = take_turns(sides, given.repeats)
    descriptions[given.peer]["commit"] = commit_of(given.checkout)
    settings = sizes | {"task": "6 actions, frames of noise"}
    return {"settings": settings, "sides": summary(descriptions, seconds)}


def commit_of(checkout: Path) -> str:
    """Commit and date of the peer's checkout; "unknown" where it is no git checkout."""
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%H of %cs"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or "unknown"


def show(console: Console, report: Report) -> None:
    """Print the report as a table."""
    settings = report["settings"]
    title = f"One update, batch {settings['batch']} x {settings['length']}, {settings['threads']} threads"
    table = Table("side", "parameters, M", "seconds", "lowest to highest", "updates/s beside the peer's")
    table.title = f"{title}, device {settings['device']}, median of {settings['repeats']} turns"
    for name, side in report["sides"].items():
        spread = f"{min(side['seconds']):.3f} to {max(side['seconds']):.3f}"
        figures = (f"{side['parameters'] / 1e6:.2f}", f"{side['median_seconds']:.3f}", spread)
        table.add_row(name, *figures, f"{side['updates_per_second_by_peer']:.2f}x")
    console.print(table)
    for name, side in report["sides"].items():
        told = {key: side[key] for key in ("commit", "configuration", "versions") if key in side}
        console.print(f"{name}: {json.dumps(told)}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    command = Command("speed.peers", __doc__)
    command.add_argument("--peer", choices=list(SIZES), required=True)
    command.add_argument("--checkout", type=Path, required=True, help="folder of the peer's source")
    command.add_argument("--python", default=sys.executable, help="interpreter with the peer's packages")
    command.add_argument("--preset", help="of ours (default: gpu on a GPU, else cpu)")
    command.add_argument("--size", help="of ours (default: the peer's number of parameters)")
    command.add_argument("--work", choices=["same work", "as preset"], help="one of ours (default: both)")
    command.add_number("batch", 16, "sequences of an update")
    command.add_number("length", 64, "frames of a sequence")
    command.add_number("threads", 2, "CPU threads of torch")
    command.add_number("repeats", 5, "turns that a median is taken over")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    command.add_argument("--precision", choices=["float32", "bfloat16"], help="of ours")
    command.add_argument("--compile", action="store_true", help="torch.compile on both sides (always on a GPU)")
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
