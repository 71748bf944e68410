"""What a run's folder says without its model: returns, gradient conflict, health, cost, settings that were changed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.config.nested import differences
from agent.config.presets import make_config
from agent.config.settings import Config
from agent.training.health import Health, Range, expected_ranges

Rows = Sequence[Mapping[str, Any]]
INTERVAL = ("interval_low", "interval_high")
RECENT = 3  # lines of metrics whose mean is a monitor's present value


class Series(NamedTuple):
    """Values of a metric over env_frames, [P] each; lines without a finite value are left out."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


def series(rows: Rows, metric: str) -> Series:
    """Return a metric over env_frames."""
    pairs = [(row["env_frames"], row[metric]) for row in rows if row.get(metric) is not None]
    return Series(*np.array(pairs, float).reshape(-1, 2).T)


class Return(NamedTuple):
    """A mean return with its 95 % interval (nan for one episode), and in words where it comes from."""

    mean: float
    low: float
    high: float
    source: str


def stored_return(logdir: Path, updates: int) -> Return | None:
    """Return what `evaluate` wrote about the deterministic policy; None without such a file of this checkpoint."""
    path = logdir / "evaluation.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["updates"] != updates or found.get("planner") is not None:
            return None
        figures = found["deterministic"]
        low, high = (float("nan") if figures[name] is None else float(figures[name]) for name in INTERVAL)
        source = f"{len(figures['returns'])} deterministic episodes (stored by evaluate)"
        return Return(float(figures["mean"]), low, high, source)
    except (OSError, ValueError, KeyError, TypeError):  # none, damaged, or another program's
        return None


@dataclass(frozen=True)
class Cost:
    """What a run took: hours of wall-clock time, env_frames and updates per second of it, where it ran."""

    hours: float
    env_frames: int
    updates: int
    device: str

    @property
    def frames_per_second(self) -> float:
        """Simulator steps per second of the whole run, learning and evaluations included."""
        return self.env_frames / max(1e-9, 3600 * self.hours)

    @property
    def updates_per_second(self) -> float:
        """Gradient steps per second of the whole run."""
        return self.updates / max(1e-9, 3600 * self.hours)


def cost(counters: Mapping[str, Any], config: Config, device: str) -> Cost:
    """Return the cost of a run from its checkpoint's counters; `device` is the kind that its config chose."""
    threads = f", {config.threads} thread{'s' * (config.threads != 1)}" if config.threads and device == "cpu" else ""
    where = f"{'CPU' if device == 'cpu' else device}{threads}"
    return Cost(counters["wall_seconds"] / 3600, counters["env_frames"], counters["updates"], where)


class Monitor(NamedTuple):
    """A health monitor: its metric, its values, the mean of the last RECENT ones, and the verdict.

    verdict: "in range", "out of range", or "too early" where the metric need not have settled. advice: what to try
    where it is out of range.
    """

    metric: str
    values: Series
    recent: float
    expected: Range
    verdict: str
    advice: str


class HealthRecord(NamedTuple):
    """The monitors at the end of a run, those out of range first, and (updates, line) of all that was reported."""

    monitors: list[Monitor]
    reports: list[tuple[int, str]]


def health_record(rows: Rows, config: Config) -> HealthRecord:
    """Replay the health monitors over a run's log, by the rule that they have while it trains."""
    health, reports = Health(expected_ranges(config)), []
    for row in rows:
        finite = {name: value for name, value in row.items() if value is not None}
        reports += [(row["updates"], line) for line in health.check(finite, row.get("updates", 0))]
    updates = max((row.get("updates", 0) for row in rows), default=0)
    found = []
    for metric, expected in health.ranges.items():
        values = series(rows, metric)
        if len(values.y):
            recent = float(values.y[-RECENT:].mean())
            is_bad = metric in health.outside
            verdict = "out of range" if is_bad else "too early" if updates < expected.settled else "in range"
            advice = (expected.below if recent < expected.low else expected.above) if is_bad else ""
            found.append(Monitor(metric, values, recent, expected, verdict, advice))
    order = ("out of range", "too early", "in range")
    return HealthRecord(sorted(found, key=lambda monitor: order.index(monitor.verdict)), reports)


class Conflict(NamedTuple):
    """The cosine between the gradients of two tasks over the run, and the share of lines in which it is negative."""

    tasks: tuple[str, str]
    cosine: Series
    negative: float


def conflicts(rows: Rows, tasks: Sequence[str]) -> list[Conflict]:
    """Return the conflict of each pair of tasks that the log has; tasks are named in the order of their numbers."""
    found = []
    for i, first in enumerate(tasks):
        for j, second in list(enumerate(tasks))[i + 1 :]:
            cosine = series(rows, f"rgb_cosine/{i}{j}")
            if len(cosine.y):
                found.append(Conflict((first, second), cosine, float((cosine.y < 0).mean())))
    return found


def task_weights(rows: Rows, tasks: Sequence[str]) -> dict[str, Series]:
    """Return the weight of each task's loss over the run; empty for methods without weights."""
    found = {task: series(rows, f"rgb_weight/{i}") for i, task in enumerate(tasks)}
    return {task: values for task, values in found.items() if len(values.y)}


def changed_settings(config: Config) -> list[str]:
    """Return the settings in which a run differs from its preset, as "key: preset's -> run's"."""
    preset = make_config(
        config.preset, config.task, {"size": config.size, "env.action_repeat": config.env.action_repeat}
    )
    own = ("seed", "env_frames", "device", "threads")
    return differences(preset, config, own)
