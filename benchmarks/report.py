"""How a benchmark ends: a file known to be writable before minutes are spent, and what its figures belong to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console


def check_target(name: str, path: Path | None) -> None:
    """ValueError where the file that an option names cannot be made for want of its folder."""
    if path is not None and not path.absolute().parent.is_dir():
        raise ValueError(f"{name}: got {str(path)!r}, expected a file in a folder that exists")


def print_lines(console: Console, lines: Mapping[str, Any]) -> None:
    """One line each: settings, or what `describe_machine` says."""
    for name, value in lines.items():
        console.print(f"{name}: {value}", highlight=False)


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """The report as an indented file; nothing without a path."""
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n")
