"""The gap between a task and its distracting variant, from the files of `run_agent.py evaluate`.

    python run_agent.py evaluate --logdir runs/walker                                    # runs/walker/evaluation.json
    python run_agent.py evaluate --logdir runs/walker --task walker_walk-distract
    python -m benchmarks.learning.gap runs/walker/evaluation*.json [--policy deterministic] [--json out.json]

One row per task and training: agents that learned the clean task, those that learned the distracting one, and each kind
on its own. Several files of a kind are several agents. The intervals are 95 %, of the mean: over agents where each side
has several, else over the episodes; the gap's is a bootstrap of both sides.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from agent.evaluation.statistics import difference_of_means, stratified_interval, summarize
from benchmarks.harness.command import Command, Report
from envs.tasks import DISTRACTING, base_task, is_distracting

FIGURES = ("clean", "distracting", "gap")
POLICIES = ("deterministic", "sample", "random")
# What the agents of the two sides learned: whether it was the distracting task.
TRAININGS = {"clean": (False, False), "distracting": (True, True), "each its own": (False, True)}

Returns = NDArray[np.float64]
Sides = dict[tuple[bool, bool], list[Returns]]  # (learned, played) is the distracting task -> returns of each agent


def read(path: Path, policy: str) -> tuple[tuple[str, str], tuple[bool, bool], Returns]:
    """Return a file's task of the suite and protocol, whether it was distracting when (learned, played), its returns.

    ValueError in one line if it is no file of `evaluate`, or the agent learned another task.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        played, learned = found["task"], found["trained_on"]
        returns = np.array(found[policy]["returns"], float)
        frames = [found[policy][name] for name in ("action_repeat", "render")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"files: '{path}' is no file of `run_agent.py evaluate` ({error!r})") from None
    task = base_task(played)
    if task != base_task(learned):
        raise ValueError(f"files: '{path}' has an agent of {learned} on {played}, expected the same task")
    return (task, "{}, {}".format(*frames)), (is_distracting(learned), is_distracting(played)), returns


def compare(clean: Sequence[Returns], distracting: Sequence[Returns]) -> dict[str, Any]:
    """Return mean and interval of both sides, [agents][episodes] each, and of their difference, clean - distracting."""
    over_agents = len(clean) > 1 and len(distracting) > 1
    sides = [
        np.array([agent.mean() for agent in side]) if over_agents else np.concatenate(list(side))
        for side in (clean, distracting)
    ]
    found = [summarize(values.tolist()) for values in sides]
    figures = [(side.mean, side.interval_low, side.interval_high) for side in found]
    figures.append(stratified_interval(difference_of_means, sides[:1], sides[1:]))
    return {
        **dict(zip(FIGURES, ([x if math.isfinite(x) else None for x in values] for values in figures), strict=True)),
        "agents": [len(clean), len(distracting)],
        "episodes": [sum(map(len, clean)), sum(map(len, distracting))],
        "over": "agents" if over_agents else "episodes",
    }


def measure(given: argparse.Namespace) -> Report:
    """Return the rows of every task that has a side of each kind."""
    tasks: dict[tuple[str, str], Sides] = defaultdict(lambda: defaultdict(list))
    for path in dict.fromkeys(given.files):
        task, kind, returns = read(path, given.policy)
        tasks[task][kind].append(returns)
    rows = [
        {"task": task, "protocol": protocol, "learned": training}
        | compare(sides[clean, False], sides[distracting, True])
        for (task, protocol), sides in sorted(tasks.items())
        for training, (clean, distracting) in TRAININGS.items()
        if sides[clean, False] and sides[distracting, True]
    ]
    if not rows:
        known = ", ".join(f"{task} (repeat, render: {protocol})" for task, protocol in sorted(tasks))
        raise ValueError(f"files: got {known} on one side only, expected a task and the same with {DISTRACTING!r}")
    return {"results": rows, "settings": {"policy": given.policy, "files": [str(path) for path in given.files]}}


def show(console: Console, report: Report) -> None:
    """Print the rows as a table."""
    table = Table(Column("task", no_wrap=True), "repeat, render", "learned", *FIGURES, "interval over")
    for row in report["results"]:
        counts = " and ".join(map(str, row[row["over"]]))
        cells = [_cell(*row[name]) for name in FIGURES]
        table.add_row(row["task"], row["protocol"], row["learned"], *cells, f"{counts} {row['over']}")
    console.print(table)


def _cell(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:.0f}" if low is None or high is None else f"{mean:.0f} [{low:.0f}, {high:.0f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, compare, print, write."""
    command = Command("learning.gap", __doc__)
    command.add_argument("files", type=Path, nargs="+", help="files of `run_agent.py evaluate`")
    command.add_argument("--policy", choices=POLICIES, default=POLICIES[0], help="whose returns (default: %(default)s)")
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
