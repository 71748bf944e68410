"""What a run does about trouble: settings to go on with, the checkpoint to go back to, the line that the user reads."""

import errno
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from agent.config.settings import Config
from agent.run_folder.checkpoint import checkpoint_paths, load_checkpoint
from agent.training.display import Display
from agent.training.screen import lasting_screen
from agent.training.stopping import silent_writers, stop_signals
from envs.wording import told

SLOWER = 0.3  # learning rates after going back, times this
TRACEBACK = "traceback.txt"  # in a run's folder `faults`: where the newest error came from that nobody expected
_HINTS = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "make its disk writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
}


class Run(Protocol):
    """A trainer of ours or of Stable-Baselines3, as `protected` needs it."""

    @property
    def logdir(self) -> Path:
        """Its folder."""

    @property
    def display(self) -> Display:
        """Its place on the screen."""

    @property
    def is_whole(self) -> bool:
        """Whether it is in a state between two steps, such as a checkpoint can hold."""

    def stop(self, reason: str) -> None:
        """End soon."""

    def fail(self, reason: str) -> None:
        """End soon, with what has to be mended first."""

    def close(self) -> None:
        """Let go of environments, logs and folder."""


@contextmanager
def protected(run: Run, checkpoint: Callable[[], None]) -> Iterator[None]:
    """Around a run's loop: signals stop it, its screen may go away, and whatever ends it, the run is closed after it.

    An error of the run's disk ends it with one line. Any other is raised, after a checkpoint unless the run `is_whole`
    no more.
    """
    try:
        with lasting_screen(), stop_signals(run.stop), silent_writers(), run.display:
            try:
                yield
            except (Exception, SystemExit) as error:
                if run.is_whole and not _is_of_disk(error):
                    with suppress(Exception):  # the first error is the one to tell
                        checkpoint()
                raise
    except OSError as error:
        if not _is_of_disk(error):
            raise
        run.fail(explain(error, run.logdir))
    finally:
        run.close()


def _is_of_disk(error: BaseException) -> bool:
    """Whether a file could not be written; another process's pipe is no file."""
    return isinstance(error, OSError) and not isinstance(error, ConnectionError)


def slower(config: Config) -> Config:
    """The same run with learning rates times 0.3, for the time after going back."""
    optimizer = replace(config.optimizer, lr_factor=SLOWER * config.optimizer.lr_factor)
    return replace(config, optimizer=optimizer)


def is_slower(config: Config) -> bool:
    """Whether learning rates are lowered already: by going back to an earlier checkpoint, or by the user."""
    return config.optimizer.lr_factor < 1


def halved(config: Config) -> Config | None:
    """The same run with half the chunks an update; None where that would be none."""
    half = config.replay.batch_size // 2
    return replace(config, replay=replace(config.replay, batch_size=half)) if half > 0 else None


def back_to_sound(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that was not written while updates were being skipped; those after it are removed.

    None where there is none: the run has to begin again.
    """
    for path in reversed(checkpoint_paths(folder)):
        try:
            payload = load_checkpoint(path)
        except ValueError:
            continue
        if payload["guard"]["in_a_row"] == 0:
            return payload
        path.unlink()
    return None


def describe(error: OSError, place: Path) -> str:
    """A file that could not be written, below `place` where it is not named, why, and what to do: one line."""
    hint = _HINTS.get(error.errno or 0, "mend that")
    return f"{error.filename if error.filename is not None else place}: {error.strerror or error}; {hint}"


def explain(error: OSError, logdir: Path) -> str:
    """The same for what ends a run."""
    return f"{describe(error, logdir)}, then go on with --resume"


def keep_traceback(error: BaseException, logdir: Path) -> str:
    """Write an error that nobody expected into the run's folder; the line that tells of it."""
    path = logdir / "faults" / TRACEBACK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as trouble:
        return f"{told(error)}; its traceback is lost ({trouble})"
    return f"{told(error)}; its traceback is in {path}"
