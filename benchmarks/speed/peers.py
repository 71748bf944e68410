"""One gradient step (world model, actor, critic) of another Dreamer and of ours: same machine, taking turns.

    python -m benchmarks.speed.peers --peer r2dreamer --checkout ~/r2dreamer [--python ~/r2dreamer/.venv/bin/python]
        [--batch 16] [--length 64] [--threads 2] [--repeats 5] [--device cpu] [--precision bfloat16] [--json out.json]

--checkout is a copy of the peer that you bring, --python the interpreter its packages are installed in: r2dreamer
(github.com/NM512/r2dreamer, `model.rep_loss=dreamer`, size12M) or dreamerv3-torch (github.com/NM512/dreamerv3-torch,
`dmc_vision`). Every side is a process of its own with the same number of threads (benchmarks/speed/peer_update.py); all but
one wait. Ours has the peer's number of parameters (--size) and all pillars and RGB on, and is there twice: "same work"
decodes every frame and dreams 15 steps from every frame, as the peers do; "as preset" leaves both to the preset. A turn
of ours is as many updates as RGB makes from one solve to the next. Seconds are medians over --repeats turns.
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
from benchmarks.harness.machine import describe_machine
from benchmarks.harness.report import check_target, print_lines, write_json

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"r2dreamer": "10m", "dreamerv3-torch": "18m"}  # ours beside each peer
SAME_WORK = {
    "world_model.decoder_config.train_fraction": 1.0,
    "world_model.perceiver_config.train_fraction": 1.0,
    "behavior.start_fraction": 1.0,
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
        """Parameters, configuration and versions, first of all, once the agent is built. RuntimeError if it fails."""
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
            raise RuntimeError(f"{self.name}: its process ended; what it said is above")
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


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run everything -> {"settings", "machine", "sides"}, ready for JSON."""
    device = choose_device(given.device)
    preset = given.preset if given.preset is not None else ("gpu" if device.type == "cuda" else "cpu")
    size = given.size if given.size is not None else SIZES[given.peer]
    config = make_config(preset, "walker_walk", {"size": size})
    precision = given.precision if given.precision is not None else config.precision
    sizes = {"batch": given.batch, "length": given.length, "threads": given.threads, "device": device.type}
    sizes["compile"] = given.compile or device.type == "cuda"
    theirs = sizes | {"checkout": str(given.checkout.absolute()), "updates": 1}
    ours = sizes | {"checkout": str(ROOT), "preset": preset, "size": size}
    ours["updates"] = config.world_model.rgb_config.every
    tasks = {given.peer: (given.peer, given.python, theirs)}
    for work in ("same work", "as preset") if given.work is None else (given.work,):
        overrides = {"precision": precision} | (SAME_WORK if work == "same work" else {})
        tasks[f"ours, {work}"] = ("aime", sys.executable, ours | {"overrides": overrides})
    with ExitStack() as running:
        sides = {name: running.enter_context(Side(*task)) for name, task in tasks.items()}
        descriptions = {name: side.describe() for name, side in sides.items()}
        seconds = take_turns(sides, given.repeats)
    descriptions[given.peer]["commit"] = commit_of(given.checkout)
    settings = sizes | {"peer": given.peer, "repeats": given.repeats, "task": "6 actions, frames of noise"}
    machine = describe_machine(device, given.threads)
    return {"settings": settings, "machine": machine, "sides": summary(descriptions, seconds)}


def commit_of(checkout: Path) -> str:
    """Commit and date of the peer's checkout; "unknown" where it is no git checkout."""
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%H of %cs"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or "unknown"


def show(report: dict[str, Any]) -> None:
    """Print the report as a table."""
    settings = report["settings"]
    title = f"One update, batch {settings['batch']} x {settings['length']}, {settings['threads']} threads"
    table = Table("side", "parameters, M", "seconds", "lowest to highest", "updates/s beside the peer's")
    table.title = f"{title}, device {settings['device']}, median of {settings['repeats']} turns"
    for name, side in report["sides"].items():
        spread = f"{min(side['seconds']):.3f} to {max(side['seconds']):.3f}"
        figures = (f"{side['parameters'] / 1e6:.2f}", f"{side['median_seconds']:.3f}", spread)
        table.add_row(name, *figures, f"{side['updates_per_second_by_peer']:.2f}x")
    console = Console(width=110)
    console.print(table)
    for name, side in report["sides"].items():
        told = {key: side[key] for key in ("commit", "configuration", "versions") if key in side}
        console.print(f"{name}: {json.dumps(told)}", highlight=False)
    print_lines(console, report["machine"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; exit status 0, 1 where a side fails, or 2 with one line for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=list(SIZES), required=True)
    parser.add_argument("--checkout", type=Path, required=True, help="folder of the peer's source")
    parser.add_argument("--python", default=sys.executable, help="interpreter with the peer's packages")
    parser.add_argument("--preset", default=None, help="of ours (default: gpu on a GPU, else cpu)")
    parser.add_argument("--size", default=None, help="of ours (default: the peer's number of parameters)")
    parser.add_argument("--work", choices=["same work", "as preset"], default=None, help="one of ours (default: both)")
    parser.add_argument("--batch", type=int, default=16, help="sequences of an update")
    parser.add_argument("--length", type=int, default=64, help="frames of a sequence")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--repeats", type=int, default=5, help="turns that a median is taken over")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default=None, help="of ours")
    parser.add_argument("--compile", action="store_true", help="torch.compile on both sides (always on a GPU)")
    parser.add_argument("--json", type=Path, default=None, help="file for the same figures")
    given = parser.parse_args(arguments)
    try:
        for name in ("batch", "length", "threads", "repeats"):
            if getattr(given, name) < 1:
                raise ValueError(f"{name}: got {getattr(given, name)}, expected at least 1")
        if not given.checkout.is_dir():
            raise ValueError(f"checkout: got {str(given.checkout)!r}, expected a folder")
        check_target("json", given.json)
        if given.size is not None:
            load_size(given.size)
        report = measure(given)
    except ValueError as error:
        print(f"peers.py: error: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:
        print(f"peers.py: error: {error}", file=sys.stderr)
        return 1
    show(report)
    write_json(given.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
