"""Learning curves of runs: mean and 95 % interval over seeds, and published curves. `curve_figure` draws them."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from agent.config.nested import flatten
from agent.config.settings import Config
from envs.wording import one_line
from world_model.settings import as_declared, declared

REFERENCE_FILE = Path(__file__).with_name("reference_curves.csv")
COUNTERS = ("env_frames", "agent_steps", "updates", "wall_seconds")
RETURNS = ("eval_return", "train_return")
WINDOW = 5  # episodes over which training returns are averaged
# Settings in which seeds of one experiment may differ: budget, hardware, logging and evaluation.
WATCHING = ("log_every", "eval_every", "eval_episodes", "video_frames", "checkpoint_minutes", "keep_checkpoints")
IGNORED = ("seed", "task", "env_frames", "device", "threads", "compile", "replay.memmap")
BASELINES = ("sac", "ppo")  # blocks of settings that only the algorithm of that name uses
_MOST_KEYS = 3  # in a label

Points = tuple[NDArray[np.float64], NDArray[np.float64]]  # x [P] ascending, values [P]


class Run(NamedTuple):
    """A run's folder: its task, its settings under dotted keys, and its lines of metrics."""

    logdir: Path
    task: str
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]


class Curve(NamedTuple):
    """The mean over `runs` seeds and its 95 % interval, each [P]; the interval of a single seed is nan."""

    label: str
    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: int


class Panel(NamedTuple):
    """The figure of one task: our curves, the training returns of each curve's runs, published curves."""

    title: str
    curves: list[Curve]
    training: list[list[Points]]
    references: list[Curve]


# ---------------------------------------------------------------- runs


def load_run(logdir: Path) -> Run:
    """Read a run's folder. A one-line ValueError if it holds no run, or no metrics."""
    from agent.run_folder.logger import read_metrics

    path = logdir / "config.yaml"
    if not path.is_file():
        raise ValueError(f"logdir: got '{logdir}', expected a folder with a run (no config.yaml in it)")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML ({one_line(error)})") from None
    if not isinstance(values, dict) or not isinstance(values.get("task"), str):
        raise ValueError(f"{path}: got no mapping with a task, expected the settings of a run")
    rows = list(read_metrics(logdir / "metrics.jsonl"))
    if not rows:
        raise ValueError(f"{logdir / 'metrics.jsonl'}: got no line of metrics, expected those of a run")
    # Runs of other versions may lack keys or have additional ones: missing keys get today's defaults.
    settings = dict(flatten(asdict(Config()))) | dict(flatten(values))
    for key, hint in declared(Config).items():
        with suppress(ValueError):  # another version's value stays as it is; 1 and 1.0 become the same number
            settings[key] = as_declared(key, settings[key], hint)
    return Run(logdir, values["task"], settings, rows)


def metric_names(runs: Iterable[Run]) -> list[str]:
    """Return the names of all metrics in these runs, sorted."""
    return sorted({name for run in runs for row in run.rows for name in row} - set(COUNTERS))


def points(run: Run, metric: str, x: str = "env_frames") -> Points:
    """Return a metric of a run over x, averaged where x repeats; training returns are smoothed first."""
    pairs = [(row[x], row[metric]) for row in run.rows if row.get(metric) is not None and x in row]
    times, values = np.array(sorted(pairs, key=lambda pair: pair[0]), float).reshape(-1, 2).T
    return smooth(times, values) if metric == "train_return" else distinct(times, values)


def smooth(times: NDArray[np.float64], values: NDArray[np.float64]) -> Points:
    """Return the running mean of five episodes (of all, if there are fewer) at the time of the last one."""
    if len(values) == 0:
        return times, values
    width = min(WINDOW, len(values))
    return distinct(times[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"))


def distinct(times: NDArray[np.float64], values: NDArray[np.float64]) -> Points:
    """Average values of the same time."""
    unique, places = np.unique(times, return_inverse=True)
    return unique, np.bincount(places, values) / np.bincount(places) if len(times) else values


def grouped(runs: Iterable[Run]) -> list[list[Run]]:
    """Group runs of one task whose `counted` settings are equal, in the order of their first runs."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        kept = [(k, repr(v)) for k, v in sorted(counted(run.settings).items())]
        groups.setdefault((run.task, *kept), []).append(run)
    return list(groups.values())


def counted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that define an experiment: without IGNORED, WATCHING and blocks of unused algorithms."""
    algo = settings["algo"]

    def counts(key: str) -> bool:
        block = key.split(".")[0]
        if algo == "aime":
            return block not in BASELINES and key not in IGNORED and key.removeprefix("train.") not in WATCHING
        if key == "env.vector":  # a baseline sees frames alone
            return False
        return block in ("algo", "env", algo) or key == "replay.prefill_frames"

    return {key: value for key, value in settings.items() if counts(key)}


def labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Return one label per group of runs: the algorithm, the settings in which the groups differ, or both."""
    settings = [counted(group[0].settings) for group in groups]
    keys = list(dict.fromkeys(key for group in groups for key in group[0].settings))
    found = {key: {repr(values[key]) for values in settings if key in values} for key in keys if key != "algo"}
    differing = [key for key in found if len(found[key]) > 1]
    has_several = len({values["algo"] for values in settings}) > 1
    shown = differing if len(differing) <= _MOST_KEYS else _distinguishing(differing, settings)
    names = []
    for values in settings:
        parts = [_algorithm(values)] if has_several or not differing else []
        parts += [f"{_short(key, keys)} {_format_value(values[key])}" for key in shown if key in values]
        more = sum(key in values for key in differing if key not in shown)
        names.append(", ".join([*parts, *([f"and {more} more settings"] if more else [])]))
    return names


def _algorithm(settings: Mapping[str, Any]) -> str:
    return str(settings["algo"]).upper()


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _distinguishing(keys: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the first keys that together distinguish all settings."""
    chosen: list[str] = []
    count = len({values["algo"] for values in settings})
    for key in keys:
        found = len({tuple(repr(values.get(k)) for k in ("algo", *chosen, key)) for values in settings})
        if found > count:
            chosen, count = [*chosen, key], found
    return chosen


def _short(key: str, keys: Sequence[str]) -> str:
    """Return the shortest tail of a key that no other key ends with: "gamma", but "perceiver_config.enabled"."""
    parts = key.split(".")
    tails = (".".join(parts[-count:]) for count in range(1, len(parts)))
    return next((tail for tail in tails if sum(f".{k}".endswith(f".{tail}") for k in keys) == 1), key)


# ---------------------------------------------------------------- curves


def mean_curve(label: str, seeds: Sequence[Points]) -> Curve:
    """Return the mean over seeds, each interpolated to every x of any seed within the range that all seeds cover.

    The interval is Student's t. ValueError if the seeds have no x in common.
    """
    from agent.evaluation.statistics import student_interval

    start, end = max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds)
    if start > end:
        raise ValueError(
            f"'{label}': got one run that ends at {end:,.0f} and one that begins at {start:,.0f}, expected an overlap"
        )
    grid = np.unique(np.concatenate([x for x, _ in seeds]))
    grid = grid[(grid >= start) & (grid <= end)]
    values = np.array([np.interp(grid, *seed) for seed in seeds])  # [seeds, P]
    mean, _, low, high = np.array([student_interval(list(column)) for column in values.T]).T
    return Curve(label, grid, mean, low, high, len(seeds))


def seed_points(group: Iterable[Run], metric: str, x: str = "env_frames") -> list[Points]:
    """Return the points of each seed. Several runs of one seed, such as a copied folder, count once, as their mean."""
    seeds: dict[Any, list[Points]] = {}
    for run in group:
        seeds.setdefault(run.settings["seed"], []).append(points(run, metric, x))
    return [_mean_points(found) for found in seeds.values()]


def _mean_points(runs: Sequence[Points]) -> Points:
    """Return the mean at every x over the runs that reach it."""
    grid = np.unique(np.concatenate([x for x, _ in runs]))
    values = [np.interp(grid, *run, left=np.nan, right=np.nan) for run in runs]
    return grid, np.nanmean(values, axis=0)


@cache
def load_references() -> dict[str, list[Curve]]:
    """Return task -> published curves of reference_curves.csv, with the protocol in the label and nan as interval."""
    with open(REFERENCE_FILE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        kind = "training returns" if row["returns"] == "training" else "evaluations"
        label = f"{row['method']}, published (repeat {row['action_repeat']}, {kind})"
        found.setdefault((row["task"], label), []).append((float(row["env_frames"]), float(row["mean"])))
    curves: dict[str, list[Curve]] = {}
    for (task, label), pairs in found.items():
        x, mean = np.array(pairs).T
        nothing = np.full(len(x), np.nan)
        curves.setdefault(task, []).append(Curve(label, x, mean, nothing, nothing, 0))
    return curves


def references(task: str, end: float) -> list[Curve]:
    """Return a task's published curves that begin before `end` env_frames, cut off there by interpolation."""
    cut = []
    for curve in load_references().get(task, []):
        if curve.x[0] < end:
            last = min(end, curve.x[-1])
            x = np.append(curve.x[curve.x < last], last)
            nothing = np.full(len(x), np.nan)
            cut.append(curve._replace(x=x, mean=np.interp(x, curve.x, curve.mean), low=nothing, high=nothing))
    return cut


def panels(runs: Sequence[Run], metric: str = "eval_return", x: str = "env_frames") -> list[Panel]:
    """Return one panel per task that has the metric; titles count the runs without it.

    Training returns appear beside evaluations, published curves beside returns over env_frames.
    """
    made = []
    for task in dict.fromkeys(run.task for run in runs):
        own = [run for run in runs if run.task == task]
        kept = [run for run in own if len(points(run, metric, x)[0])]
        if not kept:
            continue
        groups = grouped(kept)
        curves = [
            mean_curve(f"{label} ({describe_seeds(group)})", seed_points(group, metric, x))
            for label, group in zip(labels(groups), groups, strict=True)
        ]
        is_evaluation = metric == "eval_return"
        training = [[points(run, "train_return", x) for run in group if is_evaluation] for group in groups]
        training = [[seed for seed in seeds if len(seed[0])] for seeds in training]
        end = max([*(curve.x[-1] for curve in curves), *(seed[0][-1] for seeds in training for seed in seeds)])
        published = references(task, end) if metric in RETURNS and x == "env_frames" else []
        missing = len(own) - len(kept)
        title = _title(task, groups) + (f"\nwithout {missing} of {len(own)} runs: no {metric} yet" if missing else "")
        made.append(Panel(title, curves, training, published))
    return made


def describe_seeds(group: Sequence[Run]) -> str:
    """Describe the numbers of seeds and runs, and the meaning of the band."""
    seeds = len({run.settings["seed"] for run in group})
    plural = f"{seeds} seed{'s' * (seeds > 1)}"
    count = plural if seeds == len(group) else f"{len(group)} runs of {plural}"
    return f"{count}, 95 % interval" if seeds > 1 else f"{count}, no interval"


def _title(task: str, groups: Sequence[Sequence[Run]]) -> str:
    """Return the task, with action repeat and render profile if all runs share them."""
    parts = []
    for key, name in (("env.action_repeat", "action repeat"), ("env.render", "render")):
        values = {str(group[0].settings.get(key)) for group in groups}
        parts += [f"{name} {values.pop()}"] if len(values) == 1 else []
    return f"{task} ({', '.join(parts)})" if parts else task
