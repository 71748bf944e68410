"""Seconds from a command to its first answer: `run_agent.py --help`, and the first environment frame of `train`.

    python -m benchmarks.speed.startup [--task walker_walk] [--preset cpu] [--repeats 5] [--json out.json]

Every run is a new process, files in the page cache, MUJOCO_GL unset, so that finding a GL backend is part of it. The
first frame is there when the driver's first tick returns. On the way to it, until_imported_seconds: torch and our own
modules are imported; until_built_seconds: replay, environments and agent are made. cpu_seconds are what processors
spent on it: about what a machine with nothing else to do would take, were everything done one after the other.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.harness.command import Command, Failed, Report, show_results

ROOT = Path(__file__).resolve().parents[2]
Results = dict[str, float]

# The command itself, with a note at every stage and an end after the first frame.
TRAIN = """
import os, sys, time
import agent.commands.train
import run_agent

def note(stage):
    print("stage", stage, time.time(), flush=True)

training = agent.commands.train._training

def noted(*arguments):
    import agent.training.collector
    note("imported")
    job = training(*arguments)
    note("built")
    tick = agent.training.collector.Driver.tick

    def first_tick(self, policy):
        tick(self, policy)
        note("frame")
        self.close()
        os._exit(0)

    agent.training.collector.Driver.tick = first_tick
    return job

agent.commands.train._training = noted
sys.exit(run_agent.main(sys.argv[1:]))
"""


def run(arguments: list[str]) -> tuple[dict[str, float], str]:
    """Run python with arguments in the project's folder -> its times, its output. Failed where it does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    start = time.time()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Failed(f"exit status {done.returncode}: {' '.join(done.stderr.split())}")
    end, after = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"start": start, "seconds": end - start, "cpu_seconds": cpu}, done.stdout


def time_help() -> Results:
    """Times of `run_agent.py --help`."""
    times, _ = run(["run_agent.py", "--help"])
    return {"help_seconds": times["seconds"], "help_cpu_seconds": times["cpu_seconds"]}


def time_train(task: str, preset: str) -> Results:
    """Times until each stage of `run_agent.py train`."""
    with TemporaryDirectory() as folder:
        options = ["--task", task, "--preset", preset, "--logdir", f"{folder}/run"]
        times, output = run(["-c", TRAIN, "train", *options])
    notes = [line.split() for line in output.splitlines() if line.startswith("stage ")]
    stages = {stage: float(moment) - times["start"] for _, stage, moment in notes}
    return {
        "until_imported_seconds": stages["imported"],
        "until_built_seconds": stages["built"],
        "first_frame_seconds": stages["frame"],
        "first_frame_cpu_seconds": times["cpu_seconds"],
    }


def measure(given: argparse.Namespace) -> Report:
    """Medians over so many runs of each, in turns, after one that warms up."""
    rounds = [time_help() | time_train(given.task, given.preset) for _ in range(given.repeats + 1)][1:]
    return {"results": {name: median(times[name] for times in rounds) for name in rounds[0]}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    command = Command("speed.startup", __doc__)
    command.set_defaults(threads=1)
    command.add_argument("--task", default="cartpole_swingup")
    command.add_argument("--preset", default="cpu")
    command.add_number("repeats", 5)
    return command.run(arguments, measure, show_results)


if __name__ == "__main__":
    sys.exit(main())
