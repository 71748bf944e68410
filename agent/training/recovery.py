"""Recovery from failures: the settings and the checkpoint to continue from, and the line that the user reads."""

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
from envs.wording import describe_error

SLOWER = 0.3  # factor on the learning rates after going back
TRACEBACK = "traceback.txt"  # in a run's folder `faults`: the traceback of the newest unexpected error
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
        """The folder of the run."""

    @property
    def display(self) -> Display:
        """The display of the run."""

    @property
    def is_whole(self) -> bool:
        """True between two steps, when a checkpoint can hold the run's state."""

    def stop(self, reason: str) -> None:
        """Ask the run to end soon."""

    def fail(self, reason: str) -> None:
        """Ask the run to end soon as failed, for a reason that the user has to fix."""

    def close(self) -> None:
        """Release environments, logs and folder."""


@contextmanager
def protected(run: Run, checkpoint: Callable[[], None]) -> Iterator[None]:
    """Protect a run's loop: signals stop it, its terminal may close, and the run is always closed at the end.

    An error of the run's disk ends it with one line. Any other error is raised, after a checkpoint if `run.is_whole`.
    """
    try:
        with lasting_screen(), stop_signals(run.stop), silent_writers(), run.display:
            try:
                yield
            except (Exception, SystemExit) as error:
                if run.is_whole and not _is_of_disk(error):
                    with suppress(Exception):  # the first error is the one to report
                        checkpoint()
                raise
    except OSError as error:
        if not _is_of_disk(error):
            raise
        run.fail(explain(error, run.logdir))
    finally:
        run.close()


def _is_of_disk(error: BaseException) -> bool:
    """Return whether a file could not be written; a pipe to another process is not a file."""
    return isinstance(error, OSError) and not isinstance(error, ConnectionError)


def slower(config: Config) -> Config:
    """Return the config with learning rates times 0.3, used after going back."""
    optimizer = replace(config.optimizer, lr_factor=SLOWER * config.optimizer.lr_factor)
    return replace(config, optimizer=optimizer)


def is_slower(config: Config) -> bool:
    """Return whether learning rates are lowered already, by going back earlier or by the user."""
    return config.optimizer.lr_factor < 1


def halved(config: Config) -> Config | None:
    """Return the config with half the batch size, or None if that would be 0."""
    half = config.replay.batch_size // 2
    return replace(config, replay=replace(config.replay, batch_size=half)) if half > 0 else None


def back_to_sound(folder: Path) -> dict[str, Any] | None:
    """Return the newest checkpoint that was not written while updates were being skipped, and remove later ones.

    None if there is no such checkpoint: the run has to start over.
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
    """Describe in one line the file that could not be written (`place` if unnamed), the reason and the remedy."""
    hint = _HINTS.get(error.errno or 0, "fix that")
    return f"{error.filename if error.filename is not None else place}: {error.strerror or error}; {hint}"


def explain(error: OSError, logdir: Path) -> str:
    """Describe an error that ends a run, as `describe` does."""
    return f"{describe(error, logdir)}, then restart with --resume"


def keep_traceback(error: BaseException, logdir: Path) -> str:
    """Write an unexpected error's traceback to the run's folder; return the line that reports it."""
    path = logdir / "faults" / TRACEBACK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError as trouble:
        return f"{describe_error(error)}; its traceback could not be saved ({trouble})"
    return f"{describe_error(error)}; its traceback is in {path}"
