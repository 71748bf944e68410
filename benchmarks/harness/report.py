"""How a benchmark begins and ends: what --set says, a file known to be writable, what figures belong to."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console


def check_target(name: str, path: Path | None) -> None:
    """ValueError where the file that an option names cannot be made for want of its folder."""
    if path is not None and not path.absolute().parent.is_dir():
        raise ValueError(f"{name}: got {str(path)!r}, expected a file in a folder that exists")


def parse_settings(settings: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """What --set says, ["key=value", ...] -> {key: value}. ValueError in one line, of keys that are `taken` too."""
    found = dict(setting.partition("=")[::2] for setting in settings)
    for key, value in found.items():
        if not value or key in taken:
            raise ValueError(f"set: got '{key}={value}', expected key=value with none of the keys {', '.join(taken)}")
    return found


def print_lines(console: Console, lines: Mapping[str, Any]) -> None:
    """One line each: settings, or what `describe_machine` says."""
    for name, value in lines.items():
        console.print(f"{name}: {value}", highlight=False)


def write_json(path: Path | None, report: Mapping[str, Any]) -> None:
    """The report as an indented file; nothing without a path."""
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
