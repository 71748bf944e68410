"""Does the whole loop learn? Train on the tiny pixel task "reaching" and compare with its known optimum.

    python -m benchmarks.learning.reaching [--seeds 0 1 2] [--env_frames 3000] [--threads 2] [--json out.json]

Every seed is a run of the cpu preset's own rows for this task; its agent plays 20 held-out episodes deterministically,
and the expert and uniformly random actions play the same ones. Exit status 1 where a seed is below 80 % of the optimum.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from agent import Trainer, make_config
from agent.evaluation.episodes import evaluate, random_evaluation
from benchmarks.harness.command import Command, Report, rows_table
from benchmarks.learning.results import HELD_OUT_SEED
from envs.reaching import best_return

EPISODES, GOAL = 20, 0.8


def train(seed: int, env_frames: int | None, threads: int) -> dict[str, Any]:
    """Train one seed from scratch in a folder that is thrown away; its figures."""
    overrides: dict[str, Any] = {"seed": seed, "threads": threads, "train.video_frames": 0}
    if env_frames is not None:
        overrides["env_frames"] = env_frames
    config = make_config("cpu", "reaching", overrides)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        trainer = Trainer(config, Path(folder) / "run", quiet=True)
        trainer.run()
        seconds = time.monotonic() - begun
        with trainer.agent.average.swapped():  # what evaluations during training and a loaded agent play with
            result = evaluate(trainer.agent, EPISODES, HELD_OUT_SEED)
    best = best_return(result.seeds)
    return {
        "seed": seed,
        "return": result.mean,
        "std": result.std,
        "optimum": best,
        "random": random_evaluation(config, EPISODES, HELD_OUT_SEED).mean,
        "share": result.mean / best,
        "updates": trainer.agent.updates,
        "env_frames": trainer.env_frames,
        "seconds": round(seconds, 1),
    }


def measure(given: argparse.Namespace) -> Report:
    """A row for each seed, told as it comes."""
    rows = []
    for seed in given.seeds:
        rows.append(train(seed, given.env_frames, given.threads))
        print(json.dumps(rows[-1]), flush=True)
    return {"results": rows}


def show(console: Console, report: Report) -> None:
    """Print the rows as a table."""
    console.print(rows_table(report["results"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate, print, write; exit status 1 where a seed is below the goal."""
    command = Command("learning.reaching", __doc__)
    command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    command.add_argument("--env_frames", type=int, help="budget of each seed (the preset's by default)")
    command.add_number("threads", 2)
    return command.run(arguments, measure, show, lambda report: all(row["share"] >= GOAL for row in report["results"]))


if __name__ == "__main__":
    sys.exit(main())
