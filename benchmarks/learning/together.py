"""All tasks together: each configuration's mean over the tasks that it shares with the whole agent, and how far it is.

Statistics and stratified bootstrap as in Agarwal et al. 2021 (arXiv 2108.13264), on the means of ten held-out
deterministic episodes of each run, as they are: returns of DeepMind Control are within 0 and 1000.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.evaluation.statistics import (
    difference_of_means,
    interquartile_mean_of_runs,
    mean_of_tasks,
    probability_of_improvement,
    stratified_interval,
)
from benchmarks.learning.published import reference_columns, reference_score
from benchmarks.learning.results import Result, rank

Runs = dict[str, NDArray[np.float64]]  # task -> a return for each run
NOTE = (
    "Means over the tasks that a row shares with the first; [95 % interval, stratified bootstrap over runs]. IQM: "
    "interquartile mean over the runs of all its tasks. Lead: the first row's mean on the same tasks minus this one's. "
    "P(better): how likely a run of the first row beats one of this on a task drawn at random. Published means are "
    "taken as exact. An interval asks for two runs of every task."
)


def make_rows(results: list[Result], at: int) -> list[dict[str, str]]:
    """Rows for the preset's own runs, for every other configuration, and for published methods.

    `results` are of one preset. Every row stands on two tasks at least; there is none where fewer have runs of the
    preset's own at `at` env_frames.
    """
    own = next((result["name"] for result in results if not result["overrides"]), None)
    names = dict.fromkeys(result["name"] for result in sorted(results, key=rank))
    found = {name: runs_at(results, name, at) for name in names}
    whole = found.pop(own, {})
    if len(whole) < 2:
        return []
    rows = [row_of(own, whole, list(whole))]
    for name, runs in found.items():
        shared = [task for task in whole if task in runs]
        if len(shared) > 1:
            rows.append(row_of(name, runs, shared) | lead_cells(whole, runs, shared))
    return rows + published_rows(whole, at, results)


def runs_at(results: list[Result], name: str, at: int) -> Runs:
    """What a configuration's runs play at `at` env_frames, by task."""
    found: dict[str, list[float]] = {}
    for result in results:
        for stage in result["stages"]:
            if result["name"] == name and stage["env_frames"] == at:
                found.setdefault(result["task"], []).append(stage["deterministic"]["mean"])
    return {task: np.array(returns) for task, returns in found.items()}


def row_of(name: str, runs: Runs, tasks: Sequence[str]) -> dict[str, str]:
    scores = [runs[task] for task in tasks]
    return {
        "configuration": name,
        "tasks": str(len(tasks)),
        "runs": str(sum(map(len, scores))),
        "mean": cell(mean_of_tasks, scores),
        "IQM": cell(interquartile_mean_of_runs, scores),
    }


def lead_cells(whole: Runs, runs: Runs, tasks: Sequence[str]) -> dict[str, str]:
    ours, theirs = [whole[task] for task in tasks], [runs[task] for task in tasks]
    return {
        "lead": cell(difference_of_means, ours, theirs, sign="+"),
        "P(better)": cell(probability_of_improvement, ours, theirs, digits=2),
    }


def published_rows(whole: Runs, at: int, results: list[Result]) -> list[dict[str, str]]:
    """A row for each published method with scores on two tasks or more, of the action repeat at hand."""
    rows = []
    for column, method in reference_columns(results[0]["preset"]).items():
        scores = {}
        for task in whole:
            score = reference_score(column, method, [result for result in results if result["task"] == task], at)
            if score is not None:
                scores[task] = score.mean
        if len(scores) > 1:
            leads = [whole[task] - mean for task, mean in scores.items()]
            row = {"configuration": f"*{column}*", "tasks": str(len(scores))}
            row |= {"mean": f"{np.mean(list(scores.values())):.0f}", "lead": cell(mean_of_tasks, leads, sign="+")}
            rows.append(row)
    return rows


def cell(
    statistic: Callable[..., NDArray[np.float64]],
    *samples: Sequence[NDArray[np.float64]],
    digits: int = 0,
    sign: str = "",
) -> str:
    """A statistic and its interval, such as "512 [480, 530]"; alone where there is no interval."""
    value, low, high = stratified_interval(statistic, *samples)
    form = f"{sign}.{digits}f"
    return f"{value:{form}}" if math.isnan(low) else f"{value:{form}} [{low:{form}}, {high:{form}}]"
