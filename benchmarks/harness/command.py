"""The frame of every benchmark: options, their checks, errors in one line, a table, the same figures as JSON."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.table import Table

from agent.learning.agent import choose_device
from benchmarks.harness.machine import describe_machine
from envs.rendering import RenderingError

Report = dict[str, Any]


class Failed(Exception):
    """A measurement broke off. Its line ends the command with exit status 1."""


class Command(argparse.ArgumentParser):
    """Options of the benchmark `python -m benchmarks.MODULE`, and all that surrounds its measurement.

    Exit status 0; 1 where a measurement fails or its result is not good; 2 with one line for bad input; 130 after
    Ctrl-C.
    """

    def __init__(self, module: str, description: str | None) -> None:
        """`module` is the name below benchmarks, such as "speed.throughput"."""
        super().__init__(
            prog=f"python -m benchmarks.{module}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._least: dict[str, float] = {}
        self._files: list[str] = []

    def add_number(self, name: str, default: float, meaning: str | None = None, least: float = 1) -> None:
        """Add an option for a number of the default's type that has to be at least `least`."""
        self.add_argument(f"--{name}", type=type(default), default=default, help=meaning)
        self._least[name] = least

    def add_file(self, name: str, meaning: str) -> None:
        """Add an option for a file that will be written. Its folder has to exist before anything is measured."""
        self.add_argument(f"--{name}", type=Path, help=meaning)
        self._files.append(name)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse finds as the ValueError that any other bad option is."""
        raise ValueError(message.removeprefix("argument --"))

    def call(self, arguments: Sequence[str] | None, work: Callable[[argparse.Namespace], int]) -> int:
        """Parse and check the options, do the work -> its exit status, or that of what went wrong."""
        try:
            return work(self._checked(arguments))
        except Failed as error:
            return self._say(str(error), 1)
        except (ValueError, RenderingError, FileNotFoundError) as error:
            return self._say(str(error), 2)
        except OSError as error:
            return self._say(str(error), 1)
        except KeyboardInterrupt:
            return self._say("interrupted", 130)

    def run(
        self,
        arguments: Sequence[str] | None,
        measure: Callable[[argparse.Namespace], Report],
        show: Callable[[Console, Report], None],
        is_good: Callable[[Report], bool] = lambda report: True,
    ) -> int:
        """Measure, print, and write --json: {"settings", "machine"} and what was measured, whose entries win."""
        self.add_file("json", "file for the same figures")

        def work(given: argparse.Namespace) -> int:
            threads = getattr(given, "threads", torch.get_num_threads())
            torch.set_num_threads(threads)
            load = os.getloadavg()[0]  # before our own
            measured = measure(given)
            settings = _settings(given, self._files) | measured.pop("settings", {})
            machine = describe_machine(choose_device(settings.get("device", "auto")), threads, load)
            report = {"settings": settings, "machine": machine} | measured
            console = Console(width=110)
            show(console, report)
            for name, value in report["machine"].items():
                console.print(f"{name}: {value}", highlight=False)
            if given.json is not None:
                given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            return 0 if is_good(report) else 1

        return self.call(arguments, work)

    def _checked(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        given = self.parse_args(arguments)
        for name, least in self._least.items():
            if not least <= getattr(given, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(given, name)}, expected at least {least}")
        for name in self._files:
            path = getattr(given, name)
            if path is not None and not path.absolute().parent.is_dir():
                raise ValueError(f"{name}: got {str(path)!r}, expected a file in a folder that exists")
        return given

    def _say(self, line: str, status: int) -> int:
        print(f"{self.prog}: error: {line}", file=sys.stderr)
        return status


def _settings(given: argparse.Namespace, files: Sequence[str]) -> dict[str, Any]:
    """The options as JSON can hold them, without the files that are written."""
    return {name: str(x) if isinstance(x, Path) else x for name, x in vars(given).items() if name not in files}


def show_results(console: Console, report: Report) -> None:
    """Print "results", name -> number, as a table."""
    table = Table("measured", "value")
    for name, value in report["results"].items():
        table.add_row(name, f"{value:,.3f}")
    console.print(table)


def parse_settings(settings: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """What --set says, ["key=value", ...] -> {key: value}. ValueError in one line, of keys that are `taken` too."""
    found = dict(setting.partition("=")[::2] for setting in settings)
    for key, value in found.items():
        if not value or key in taken:
            raise ValueError(f"set: got '{key}={value}', expected key=value with none of the keys {', '.join(taken)}")
    return found


def positive(name: str, value: float) -> None:
    """ValueError where an option is not a positive number."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: got {value}, expected a positive number")


def rows_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of the same keys as a table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    return table
