"""The table and the figure of learning curves: result files of benchmarks.learning.runs beside published scores.

python -m benchmarks.learning.table [--results benchmarks/results/learning] [--markdown out.md] [--figure out.png]
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.evaluation.curve_figure import OKABE_ITO, X_LABELS, Y_LABELS, draw_panel, make_axes, save
from agent.evaluation.curves import Curve, Panel, distinct, mean_curve, smooth
from agent.evaluation.statistics import student_interval
from benchmarks.harness.command import Command
from benchmarks.learning import together
from benchmarks.learning.published import DREAMER_V3, reference_columns, reference_score
from benchmarks.learning.results import ARMS, FOLDER, Result, load_result, rank

TIMES = (50_000, 100_000, 250_000, 500_000, 1_000_000)  # env_frames at which published scores stand
NOTES = (
    "Ours: mean over runs [95 % interval of that mean, Student t]. Deterministic and sampled: 10 held-out episodes per "
    "run. Training: episodes that ended in (T - 10k, T + 10k], at 1M in (980k, 1M]. updates/s and hours: of the "
    "last stage.",
    "*Published*: mean ± std over seeds. DreamerV3: training returns; the others: evaluations. CURL's authors took "
    "PlaNet and Dreamer from their papers; dreamerv3-torch is read off a plot, ± 15.",
)


# ---------------------------------------------------------------- table


def published_rows(runs: list[Result], times: Sequence[int]) -> list[dict[str, str]]:
    """Published scores of a task's protocol, each in the column of its kind; "runs" are its seeds."""
    rows = []
    for column, method in reference_columns(runs[0]["preset"]).items():
        kind = "training" if method == DREAMER_V3 else "deterministic"
        row = {"configuration": f"*{column}*"}
        for at in times:
            score = reference_score(column, method, runs, at)
            if score is not None:
                values = (score.mean, score.std)
                row["runs"] = str(score.seeds or "")
                row[f"{time_label(at)} {kind}"] = " ± ".join(f"{value:.0f}" for value in values if value is not None)
        rows += [row] if len(row) > 1 else []
    return rows


def grouped(results: list[Result]) -> list[list[Result]]:
    """The runs of each task and configuration, in the order of tasks and arms; fewer overrides come first."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in sorted(results, key=lambda r: (r["task"], rank(r), r["seed"])):
        groups.setdefault((result["task"], result["name"]), []).append(result)
    return list(groups.values())


def settings_of(result: Result) -> str:
    """What a configuration sets beyond its preset, by the last word of each key; a pillar's `enabled` by the pillar."""
    shown = {
        key.removesuffix("_config.enabled").rpartition(".")[2]: value for key, value in result["overrides"].items()
    }
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def time_label(env_frames: int) -> str:
    """50000 -> "50k", 1000000 -> "1M"."""
    return f"{env_frames // 1_000_000}M" if env_frames % 1_000_000 == 0 else f"{env_frames / 1000:g}k"


def stages_at(group: list[Result], at: int) -> list[Result]:
    return [stage for result in group for stage in result["stages"] if stage["env_frames"] == at]


def env_frames_of(result: Result) -> int:
    """How far a run is known to have come."""
    frames = [stage["env_frames"] for stage in result["stages"]]
    return int(max([*frames, *(point[0] for point in result["training"] + result["evaluations"])], default=0))


def training_return(result: Result, at: int) -> float | None:
    """Mean return of the episodes around `at`, counted as the reference does; None where the run ended before."""
    last = min(at + 10_000, 1_000_000)
    found = [value for frames, value in result["training"] if last - 20_000 < frames <= last]
    return float(np.mean(found)) if found and env_frames_of(result) >= at else None


def training_returns(group: list[Result], at: int) -> list[float]:
    return [value for result in group if (value := training_return(result, at)) is not None]


def mean_cell(values: list[float], digits: int = 0) -> str:
    return f"{np.mean(values):.{digits}f}" if values else ""


def interval_cell(values: list[float], seeds: int) -> str:
    """Mean over seeds and its 95 % interval; how many there are, where it is one or fewer than the row's `seeds`."""
    if len(values) < 2:
        return f"{mean_cell(values)} (1 seed)" if values else ""
    mean, _, low, high = student_interval(values)
    return f"{mean:.0f} [{low:.0f}, {high:.0f}]" + (f" ({len(values)} seeds)" if len(values) < seeds else "")


def make_row(group: list[Result], times: Sequence[int]) -> dict[str, str]:
    """Column -> cell for the runs of one task and arm."""
    frames = sorted({env_frames_of(result) for result in group})
    row = {"configuration": group[0]["name"], "settings": settings_of(group[0]), "runs": str(len(group))}
    row["env_frames"] = " to ".join(f"{count:,}" for count in (frames if len(frames) < 3 else (frames[0], frames[-1])))
    for at in times:
        stages = stages_at(group, at)
        own = {
            "deterministic": interval_cell([stage["deterministic"]["mean"] for stage in stages], len(group)),
            "sampled": mean_cell([stage["sampled"]["mean"] for stage in stages]),
            "training": mean_cell(training_returns(group, at)),
        }
        row |= {f"{time_label(at)} {name}": cell for name, cell in own.items()}
    ends = [result["stages"][-1] for result in group if result["stages"]]
    row["updates/s"] = mean_cell([end["updates"] / max(end["wall_seconds"], 1e-9) for end in ends], 2)
    row["hours"] = mean_cell([end["wall_seconds"] / 3600 for end in ends], 2)
    ended = [f"seed {result['seed']} {result['status']}" for result in group if result["status"] != "finished"]
    return row | {"ended": "; ".join(ended)}


def make_task_table(runs: list[Result]) -> str:
    """Markdown: a row for each arm of one task and preset, then the published scores in the same columns."""
    ends = {stage["env_frames"] for result in runs for stage in result["stages"]}
    evaluated = {at for at in ends if at % 10_000 == 0}  # a run that was stopped has no column of its own
    times = sorted({at for at in TIMES if training_returns(runs, at)} | evaluated)
    ours = [make_row(group, times) for group in grouped(runs)]
    return markdown_table(ours + published_rows(runs, times))


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Rows under the columns of the first two that any row fills."""
    columns = [column for column in {**rows[0], **rows[1 % len(rows)]} if any(row.get(column) for row in rows)]
    cells = [[" ".join(row.get(column, "").split()).replace("|", "\\|") for column in columns] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe_settings(results: list[Result]) -> list[str]:
    """What the runs of a preset share, or which task has which: settings, hardware, commits."""
    found: dict[str, dict[str, set[str]]] = {}
    for result in results:
        config, machine = result["config"], result["machine"]
        cpu = machine["cpu"].rsplit(", load", 1)[0]
        facts = {"hardware": f"{cpu}, {machine['gpu']}" if "gpu" in machine else cpu, "commit": machine["commit"]}
        if config:
            facts |= {"action repeat": config["env"]["action_repeat"], "render": config["env"]["render"]}
        if config and result["arm"] == "sac":
            facts["sac"] = f"batch {config['sac']['batch_size']}, one update an agent step"
        elif config:
            replay = config["replay"]
            facts["train ratio"] = f"{config['train']['train_ratio']:g}"
            facts["batch"] = f"{replay['batch_size']} x {replay['batch_length']}"
        for name, value in facts.items():
            found.setdefault(name, {}).setdefault(str(value), set()).add(result["task"])
    lines = []
    for name in ("train ratio", "action repeat", "batch", "render", "sac", "hardware", "commit"):
        values = found.get(name, {})
        shown = [v if len(values) == 1 else f"{v} ({', '.join(sorted(tasks))})" for v, tasks in values.items()]
        lines += [f"- {name}: {'; '.join(shown)}"] if shown else []
    return lines


def make_table(results: list[Result]) -> str:
    """Markdown: for each preset its settings, a table for each task and for all, and which arms have not been run."""
    parts = []
    for preset in sorted({result["preset"] for result in results}):
        mine = [result for result in results if result["preset"] == preset]
        parts += [f"## Preset {preset}", "\n".join(describe_settings(mine))]
        for task in sorted({result["task"] for result in mine}):
            parts += [f"### {task}", make_task_table([result for result in mine if result["task"] == task])]
        for at in TIMES:
            rows = together.make_rows(mine, at)
            parts += [f"### All tasks together, {time_label(at)}", markdown_table(rows), together.NOTE] if rows else []
        missing = [arm for arm in ARMS if arm not in {result["arm"] for result in mine}]
        parts += [f"not run: {', '.join(missing)}"] if missing else []
        parts += NOTES
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- figure


def write_figure(results: list[Result], path: Path) -> None:
    """A panel for each preset and task: the arms' evaluations and training returns over env_frames, published scores.

    Runs with settings of their own are left to the table.
    """
    panels = list(dict.fromkeys((r["preset"], r["task"]) for r in sorted(results, key=lambda r: r["preset"])))
    figure, axes = make_axes(len(panels))
    for ax, (preset, task) in zip(axes, panels, strict=True):
        mine = [result for result in results if (result["preset"], result["task"]) == (preset, task)]
        groups = [group for group in grouped(mine) if group[0]["overrides"] == ARMS[group[0]["arm"]]]
        for index, group in enumerate(groups):
            draw_stages(ax, group, index)
        ax.plot([], [], "D", color="none", markeredgecolor="black", label="10 held-out episodes")
        curves = [evaluation_curve(group) for group in groups]
        training = [[smooth(*np.array(r["training"]).T) for r in group if r["training"]] for group in groups]
        draw_references(ax, mine)
        draw_panel(ax, Panel(f"{task}, preset {preset}", curves, training, []))
        highest = max((line.get_ydata().max() for line in ax.lines if len(line.get_ydata())), default=1.0)
        ax.set_ylim(top=1.1 * highest)  # the interval of two runs would dwarf their curves
        ax.set(xlabel=X_LABELS["env_frames"], ylabel=Y_LABELS["eval_return"])
    save(figure, path)


def evaluation_curve(group: list[Result]) -> Curve:
    """The evaluations during training, over those of an arm's runs that came furthest; empty where there was none."""
    name, runs = group[0]["name"], [distinct(*np.array(r["evaluations"]).T) for r in group if r["evaluations"]]
    if not runs:
        return Curve(f"{name} (no evaluations on the way)", *[np.empty(0)] * 4, 0)
    end = max(times[-1] for times, _ in runs)
    furthest = [run for run in runs if run[0][-1] == end]
    count = f"{len(furthest)} of {len(group)}" if len(furthest) < len(group) else f"{len(group)}"
    return mean_curve(f"{name} ({count} run{'s' * (len(group) > 1)})", furthest)


def draw_stages(ax: Any, group: list[Result], index: int) -> None:
    """A diamond for each evaluation of ten held-out episodes of the panel's index-th arm."""
    marks = [(s["env_frames"], s["deterministic"]["mean"]) for r in group for s in r["stages"]]
    if marks:
        style = {"color": OKABE_ITO[index % len(OKABE_ITO)], "markeredgecolor": "black", "markersize": 8, "zorder": 4}
        ax.plot(*zip(*marks, strict=True), "D", **style)


def draw_references(ax: Any, results: list[Result]) -> None:
    """A dash for each published score, at its env_frames, with a label; labels are kept apart."""
    reached = max(env_frames_of(result) for result in results)
    for at in (at for at in TIMES if at <= reached):
        lowest = -math.inf
        scores = [
            (found.mean, column.split(" [")[0])
            for column, method in reference_columns(results[0]["preset"]).items()
            if (found := reference_score(column, method, results, at)) is not None
        ]
        for score, label in sorted(scores):
            lowest = max(score, lowest + 35)
            ax.plot([at - 0.02 * reached, at + 0.02 * reached], [score, score], color="0.35", linewidth=1.5)
            ax.text(at + 0.025 * reached, lowest, label, fontsize=6, va="center", color="0.35")
    ax.set_xlim(0, 1.5 * reached if reached else 1)


def write(given: argparse.Namespace) -> int:
    """Print the table; write it and the figure where they are asked for."""
    results = [load_result(path) for path in sorted(given.results.glob("*.json"))]
    if not results:
        raise ValueError(f"results: got '{given.results}', expected a folder with files of benchmarks.learning.runs")
    table = make_table(results)
    print(table, end="")
    if given.markdown is not None:
        given.markdown.write_text(table, encoding="utf-8")
    if given.figure is not None:
        write_figure(results, given.figure)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write what the result files say."""
    command = Command("learning.table", __doc__)
    command.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    command.add_file("markdown", "file for the table")
    command.add_file("figure", "file for the curves, such as out.png")
    return command.call(arguments, write)


if __name__ == "__main__":
    sys.exit(main())
