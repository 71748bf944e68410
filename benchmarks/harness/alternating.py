"""Works timed side by side, and what the commands that do so share: options, table, JSON."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness.machine import describe_machine
from benchmarks.harness.report import check_target, print_lines, write_json

Results = dict[str, float]
Measure = Callable[[argparse.Namespace], Results]


def alternate(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of one call of each work, over `repeats` rounds in which each is called once; one more warms up.

    Whatever else the machine does falls on all of them alike: who goes first moves on from round to round.
    """
    names = list(works)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_number in range(repeats + 1):
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            works[name]()
            if round_number > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def run_command(
    parser: argparse.ArgumentParser, measure: Measure, arguments: Sequence[str] | None, least: dict[str, float]
) -> int:
    """Parse, measure, print, write: exit status 0, or 2 with one line for an option below its `least` value.

    Adds --json; the file holds {"settings", "machine", "results"}.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", type=Path, default=None, help="file for the same figures")
    given = parser.parse_args(arguments)
    path = given.json
    try:
        for name, bound in least.items():
            if not bound <= getattr(given, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(given, name)}, expected at least {bound}")
        check_target("json", path)
        results = measure(given)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(given).items() if name != "json"}
    machine = describe_machine(torch.device("cpu"), 1)
    report: dict[str, Any] = {"settings": settings, "machine": machine, "results": results}
    show(parser.prog, report)
    write_json(path, report)
    return 0


def show(title: str, report: dict[str, Any]) -> None:
    """Print the results as a table, settings and machine below it."""
    table = Table("measured", "value", title=title)
    for name, value in report["results"].items():
        table.add_row(name, f"{value:,.3f}")
    console = Console(width=110)
    console.print(table)
    print_lines(console, report["settings"] | report["machine"])
