"""Figures of learning curves, distinguished by colour, marker and dash, so that they also read in greyscale."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.evaluation.curves import WINDOW, Curve, Panel, Points

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "os^DvPX*"
DASHES = ((0, (6, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (2, 2)))
MOST_MARKERS = 12  # per curve
X_LABELS = {
    "env_frames": "env_frames (control steps of the simulator)",
    "agent_steps": "agent_steps (decisions)",
    "updates": "updates (gradient steps)",
    "wall_seconds": "wall-clock time (hours)",
}
Y_LABELS = {
    "eval_return": "evaluation return (sum of an episode's rewards)",
    "train_return": f"training return (sum of rewards, mean of {WINDOW} episodes)",
}


def write_figure(panels: Sequence[Panel], path: Path, metric: str = "eval_return", x: str = "env_frames") -> None:
    """Write a figure of these panels."""
    figure, axes = make_axes(len(panels))
    for ax, panel in zip(axes, panels, strict=True):
        draw_panel(ax, panel, 1 / 3600 if x == "wall_seconds" else 1.0)
        ax.set(xlabel=X_LABELS[x], ylabel=Y_LABELS.get(metric, metric))
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure including its long legends; the file's suffix decides the format."""
    figure.savefig(path, dpi=150, bbox_inches="tight")


def make_axes(count: int) -> tuple[Any, list[Any]]:
    """Return a figure with `count` panels, three per row, and their axes."""
    backend = os.environ.pop("MPLBACKEND", None)  # importing matplotlib fails if a notebook's backend is not installed
    try:
        from matplotlib.figure import Figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend

    wide = min(3, count)
    tall = math.ceil(count / wide)
    figure = Figure(figsize=(6.5 * wide, 5.5 * tall), layout="constrained")
    axes = list(figure.subplots(tall, wide, squeeze=False).ravel())
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count]


def draw_panel(ax: Any, panel: Panel, scale: float = 1.0) -> None:
    """Draw one panel with its legend below; x is multiplied by `scale`."""
    from matplotlib.ticker import FuncFormatter

    for index, (curve, training) in enumerate(zip(panel.curves, panel.training, strict=True)):
        draw_curve(ax, curve, index, scale)
        draw_training(ax, training, index, scale)
    if any(panel.training):
        ax.plot(
            [],
            [],
            color="0.4",
            linewidth=0.8,
            alpha=0.6,
            label=f"training returns of a run (mean of {WINDOW} episodes)",
        )
    for index, curve in enumerate(panel.references):
        dash = DASHES[index % len(DASHES)]
        ax.plot(scale * curve.x, curve.mean, linestyle=dash, color="0.45", linewidth=1.3, label=curve.label)
    if min(line.get_ydata().min() for line in ax.lines if len(line.get_ydata())) >= 0:
        ax.set_ylim(0, None)
    ax.set_xlim(0, None)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.set_title(panel.title)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def draw_curve(ax: Any, curve: Curve, index: int, scale: float = 1.0) -> None:
    """Draw the panel's index-th curve: the mean with markers, and its interval as a band if it has three runs or more.

    The interval of two runs is 12.7 standard errors to either side, which would fill the panel.
    """
    color, marker = OKABE_ITO[index % len(OKABE_ITO)], MARKERS[index % len(MARKERS)]
    every = max(1, math.ceil(len(curve.x) / MOST_MARKERS))
    style = {"color": color, "marker": marker, "markersize": 5, "markevery": every, "linewidth": 1.8}
    ax.plot(scale * curve.x, curve.mean, label=curve.label, zorder=3, **style)
    if curve.runs > 2:
        ax.fill_between(scale * curve.x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)


def draw_training(ax: Any, seeds: Sequence[Points], index: int, scale: float = 1.0) -> None:
    """Draw the training returns of the index-th curve's runs, one thin line per run."""
    for times, values in seeds:
        ax.plot(scale * times, values, color=OKABE_ITO[index % len(OKABE_ITO)], linewidth=0.8, alpha=0.6)
