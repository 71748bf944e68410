"""The trackers that `train --log` names: copies of a run's log that never stop or slow the run.

Importing this module imports none of them, nor torch.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.run_folder.mirror import Mirror
from agent.run_folder.tensorboard_writer import TensorBoardWriter
from agent.run_folder.trackio_writer import TrackioWriter
from agent.run_folder.wandb_writer import WandbWriter
from envs.wording import describe_error

TRACKERS: dict[str, type[Mirror]] = {"tensorboard": TensorBoardWriter, "wandb": WandbWriter, "trackio": TrackioWriter}
DEFAULT = ("tensorboard",)


def check_trackers(names: Iterable[str]) -> None:
    """Raise a one-line ValueError if one of the trackers is unknown or cannot work on this machine."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"log: got '{name}', expected any of {', '.join(TRACKERS)}")
        TRACKERS[name].check()


def open_trackers(
    names: Iterable[str], logdir: Path, settings: Mapping[str, Any], resume: bool, tell: Callable[[str], None]
) -> list["Tracker"]:
    """Open each of the named trackers once; the arguments are those of `Mirror`."""
    return [Tracker(TRACKERS[name], logdir, settings, resume, tell) for name in dict.fromkeys(names)]


class Tracker(Mirror):
    """A mirror whose first error, at whatever call, ends it with one line, but not the run.

    Args:
        kind: class of the mirror; the other arguments are its own.
    """

    def __init__(
        self,
        kind: type[Mirror],
        logdir: Path,
        settings: Mapping[str, Any],
        resume: bool,
        tell: Callable[[str], None] = print,
    ) -> None:
        self._tell = tell
        self._mirror: Mirror | None = None  # None after an error, and after the end
        try:
            self._mirror = kind(logdir, settings, resume, tell)
        except Exception as error:
            self._report(kind.title, error, "the run continues without it")

    def begin(self, env_frames: int) -> None:
        """Get ready for lines after `env_frames`."""
        self._try("begin", env_frames)

    def write(self, counters: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Write a line."""
        self._try("write", counters, metrics)

    def video(self, tag: str, gif: bytes, env_frames: int) -> None:
        """Write an animated GIF."""
        self._try("video", tag, gif, env_frames)

    def note(self, line: str, env_frames: int) -> None:
        """Write a line of text."""
        self._try("note", line, env_frames)

    def flush(self) -> None:
        """Write what is still in memory."""
        self._try("flush")

    def close(self) -> None:
        """Finish; a second call does nothing."""
        self._try("close")
        self._mirror = None

    def _try(self, method: str, *arguments: Any) -> None:
        mirror = self._mirror
        if mirror is None:
            return
        try:
            getattr(mirror, method)(*arguments)
        except Exception as error:
            self._mirror = None
            remedy = mirror.leftover if method == "close" else "the run continues without it"
            self._report(mirror.title, error, remedy)

    def _report(self, title: str, error: Exception, remedy: str) -> None:
        self._tell(f"{title}: {describe_error(error, 120)}; {remedy}")
