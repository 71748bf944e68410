"""plot: learning curves of runs, averaged over seeds, beside published curves of the same task."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.commands import Job, say
from agent.commands.parser import Parser, add_overwrite, check_target, write_json, written

if TYPE_CHECKING:
    from agent.evaluation.curves import Panel, Run

SUFFIXES = (".png", ".pdf", ".svg")


def prepare(arguments: list[str]) -> Job:
    """Read the runs and compute their curves; the job plots them."""
    parser = Parser("plot")
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, such as runs/*")
    parser.add_argument("--out", type=Path, help="a .png, .pdf or .svg file (default: curves.png)")
    parser.add_argument("--metric", default="eval_return", help="a name in metrics.jsonl (default: eval_return)")
    parser.add_argument("--x", default="env_frames", help="env_frames (default), agent_steps, updates or wall_seconds")
    parser.add_argument("--json", type=Path, help="file for the plotted numbers")
    add_overwrite(parser)
    options, _ = parser.parse(arguments)
    out = options.out if options.out is not None else Path("curves.png")
    if out.suffix not in SUFFIXES:
        raise ValueError(f"out: got '{out}', expected a name ending in {', '.join(SUFFIXES)}")
    check_target(out, "out", options.out is None or options.overwrite)
    if options.json is not None:
        check_target(options.json, "json", options.overwrite)
    from agent.evaluation.curves import COUNTERS, panels

    if options.x not in COUNTERS:
        raise ValueError(f"x: got '{options.x}', expected one of {', '.join(COUNTERS)}")
    folders = {folder.resolve(): folder for folder in options.runs}
    runs = readable(list(folders.values()))
    tell_missing(runs, options.metric, options.x)
    drawn = panels(runs, options.metric, options.x)

    def job() -> None:
        from agent.evaluation.curve_figure import write_figure

        for panel in drawn:
            _print_summary(panel)
        is_old = out.exists()
        out.parent.mkdir(parents=True, exist_ok=True)
        write_figure(drawn, out, options.metric, options.x)
        say(written(out, is_old))
        if options.json is not None:
            say(write_json(options.json, [to_json(panel) for panel in drawn]))

    return job


def readable(folders: Sequence[Path]) -> "list[Run]":
    """Return the runs among these folders and report the others, since runs/* may match some. ValueError if none is."""
    from agent.evaluation.curves import load_run

    runs, faults = [], []
    for folder in folders:
        try:
            runs.append(load_run(folder))
        except ValueError as error:
            faults.append(error)
    if not runs:
        raise faults[0]
    for fault in faults:
        say(f"skipped: {fault}")
    return runs


def tell_missing(runs: "Sequence[Run]", metric: str, x: str) -> None:
    """Report the runs without this metric. ValueError, naming the known metrics, if no run has it."""
    from agent.evaluation.curves import metric_names, points

    missing = [run for run in runs if not len(points(run, metric, x)[0])]
    if len(missing) == len(runs):
        raise ValueError(f"metric: got '{metric}', expected one that these runs have: {', '.join(metric_names(runs))}")
    for run in missing:
        say(f"skipped, no {metric} yet: {run.logdir}")


def to_json(panel: "Panel") -> dict[str, Any]:
    """Return the numbers of a panel; null where an interval is not defined."""

    def numbers(values: Any) -> list[float | None]:
        return [None if value != value else float(value) for value in values]

    def curve(found: Any) -> dict[str, Any]:
        return {"label": found.label, "runs": found.runs} | {
            name: numbers(getattr(found, name)) for name in ("x", "mean", "low", "high")
        }

    return {
        "title": panel.title,
        "curves": [curve(found) for found in panel.curves],
        "training": [[[numbers(part) for part in seed] for seed in seeds] for seeds in panel.training],
        "references": [curve(found) for found in panel.references],
    }


def _print_summary(panel: "Panel") -> None:
    """Print the title and the last value of every curve."""
    say(panel.title)
    for curve in panel.curves:
        interval = f" [{curve.low[-1]:.2f}, {curve.high[-1]:.2f}]" if curve.runs > 1 else ""
        say(f"  {curve.mean[-1]:10.2f}{interval} at {curve.x[-1]:,.0f}  {curve.label}")
