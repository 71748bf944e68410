"""docs/images/readme_curves.png: stored runs of the cpu preset with rows for tasks beside published learning curves.

python -m docs.make_learning_figure
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from agent.evaluation.curve_figure import DASHES, OKABE_ITO
from agent.evaluation.curves import distinct, references

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("cartpole_swingup", "ball_in_cup_catch", "cheetah_run", "walker_walk")
PUBLISHED = ("DreamerV3", "DrQ")
END = 100_000  # env_frames


def load_runs() -> dict[str, list[dict[str, Any]]]:
    """Task -> the stored runs of that preset as it was, by seed."""
    found: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
    for path in sorted((ROOT / "benchmarks" / "results" / "task_rows").glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["task"] in found and run["preset"] == "cpu" and run["arm"] == "aime" and not run["overrides"]:
            found[run["task"]].append(run)
    return {task: sorted(runs, key=lambda run: run["seed"]) for task, runs in found.items()}


def draw_task(ax: Any, task: str, runs: list[dict[str, Any]]) -> None:
    """Our runs, one line per seed that ends in its held-out evaluation, over the published means."""
    published = [
        (name, curve) for curve in references(task, END) for name in PUBLISHED if curve.label.startswith(f"{name},")
    ]
    for name, curve in published:
        style = DASHES[PUBLISHED.index(name)]
        ax.plot(curve.x, curve.mean, linestyle=style, color="0.35", linewidth=1.4, label=f"{name}, published")
    for index, run in enumerate(runs):
        x, y = distinct(*np.array(run["evaluations"]).T)
        last = run["stages"][-1]
        ax.plot(
            x, y, color=OKABE_ITO[index], marker="o", markersize=3, linewidth=1.6, label=f"AIME, seed {run['seed']}"
        )
        mark = {"color": OKABE_ITO[index], "markeredgecolor": "black", "markersize": 7, "zorder": 4}
        ax.plot(last["env_frames"], last["deterministic"]["mean"], "D", clip_on=False, **mark)
    ax.set(title=task, xlim=(0, END), ylim=(0, 1000 if task != "cheetah_run" else 500), xlabel="env_frames")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k"))
    ax.grid(alpha=0.25)


def main() -> None:
    """Draw one panel per task and write the picture."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, len(TASKS))
    for ax, (task, runs) in zip(axes, load_runs().items(), strict=True):
        draw_task(ax, task, runs)
    axes[0].set_ylabel("return")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(ROOT / "docs" / "images" / "readme_curves.png", dpi=110)


if __name__ == "__main__":
    main()
