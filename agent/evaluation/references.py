"""Published scores of DeepMind Control from pixels, with their protocols and sources.

The rows are in reference_scores.csv, each with its source; benchmarks/learning/table.py reads the same file.
"""

import csv
import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

REFERENCE_FILE = Path(__file__).with_name("reference_scores.csv")
_SAME_BUDGET = 1.1  # budgets that differ by less than this factor count as the same


class Reference(NamedTuple):
    """One published score: mean and standard deviation over seeds; None if the source does not say."""

    method: str
    task: str
    env_frames: int
    mean: float
    std: float | None
    seeds: int | None
    action_repeat: int
    source: str

    @property
    def name(self) -> str:
        """The method without the source in brackets."""
        return self.method.split(" (")[0].split(" [")[0]


@cache
def load_references() -> dict[tuple[str, str, int], Reference]:
    """Return (method, task, env_frames) -> score."""
    with REFERENCE_FILE.open(newline="", encoding="utf-8") as file:
        found = [_parse(row) for row in csv.DictReader(file)]
    return {(reference.method, reference.task, reference.env_frames): reference for reference in found}


def _parse(row: dict[str, str]) -> Reference:
    std = float(row["score_std"]) if row["score_std"] else None
    seeds = int(row["seeds"]) if row["seeds"] else None
    settings = (std, seeds, int(row["action_repeat"]), row["source"])
    return Reference(row["method"], row["task"], int(row["env_steps"]), float(row["score_mean"]), *settings)


def nearest_references(task: str, env_frames: int) -> list[Reference]:
    """Return each method's score on the task whose budget is nearest to `env_frames`, by ratio."""
    nearest: dict[str, Reference] = {}
    for reference in load_references().values():
        if reference.task == task:
            nearest[reference.method] = min(
                nearest.get(reference.method, reference),
                reference,
                key=lambda found: abs(math.log(found.env_frames / max(1, env_frames))),
            )
    return list(nearest.values())


def protocol_differences(reference: Reference, action_repeat: int, env_frames: int) -> list[str]:
    """Return the differences in protocol, "action repeat" and "env_frames"; empty if the scores are comparable."""
    ratio = reference.env_frames / max(1, env_frames)
    found = [("action repeat", reference.action_repeat != action_repeat)]
    found.append(("env_frames", not 1 / _SAME_BUDGET < ratio < _SAME_BUDGET))
    return [name for name, differs in found if differs]
