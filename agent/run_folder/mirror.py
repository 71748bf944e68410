"""What a mirror is: a second destination of a run's log, beside the files in its folder."""

import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ID_FILE = "run_id"


class Mirror:
    """A second destination of a run's log. What a subclass does not override does nothing.

    Args:
        logdir: the run's folder.
        settings: the run's config, nested.
        resume: the run continues; otherwise it is new.
        tell: gets lines for the user.
    """

    title = ""
    leftover = "the rest is lost"  # what becomes of lines that `close` failed to write

    def __init__(self, logdir: Path, settings: Mapping[str, Any], resume: bool, tell: Callable[[str], None]) -> None:
        """Connect."""

    @staticmethod
    def check() -> None:
        """Raise a one-line ValueError if this mirror cannot work on this machine."""

    def begin(self, env_frames: int) -> None:
        """Get ready for lines after `env_frames`, at the start and after each rollback; later ones are obsolete."""

    def write(self, counters: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Write a line: env_frames, agent_steps, updates, wall_seconds, and finite metrics."""

    def video(self, tag: str, gif: bytes, env_frames: int) -> None:
        """Write an animated GIF."""

    def note(self, line: str, env_frames: int) -> None:
        """Write a line of text."""

    def flush(self) -> None:
        """Write what is still in memory, because a checkpoint follows."""

    def close(self) -> None:
        """Finish, because the run has ended."""


def run_id(folder: Path, resume: bool) -> str:
    """Return the id under which a service knows a run; `folder` gets a new one unless `resume` finds one there."""
    file = folder / ID_FILE
    found = _read_id(file) if resume else None
    if found is None:
        found = secrets.token_hex(4)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(found, encoding="utf-8")
    return found


def _read_id(path: Path) -> str | None:
    """Return the id that an earlier session wrote; None if there is none, or it is invalid."""
    try:
        with open(path, "rb") as file:
            text = file.read(100).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"[0-9A-Za-z_-]{1,64}", text) else None
