"""What a run does about trouble: settings to go on with, the checkpoint to go back to, the line that the user reads."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from agent.checkpoint import checkpoint_paths, load_checkpoint
from agent.config import Config, save_config
from agent.snapshot import rescale_updates

if TYPE_CHECKING:
    from agent.trainer import Trainer

SLOWER = 0.3  # learning rates after going back, times this
_HINTS = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room within the quota",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "make its disk writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
}


def slower(config: Config) -> Config:
    """The same run with learning rates times 0.3, for the time after going back."""
    optimizer = replace(config.optimizer, lr_factor=SLOWER * config.optimizer.lr_factor)
    return replace(config, optimizer=optimizer)


def is_slower(config: Config) -> bool:
    """Whether learning rates are lowered already: by going back to an earlier checkpoint, or by the user."""
    return config.optimizer.lr_factor < 1


def halve_batch(run: "Trainer") -> None:
    """After a GPU ran out of memory: half the chunks an update, twice the updates; once, then the run fails."""
    torch.cuda.empty_cache()
    replay = run.config.replay
    half, shape = replay.batch_size // 2, f"{replay.batch_size} x {replay.batch_length}"
    if run.is_halved or half == 0:
        fitting = f"replay.batch_size {half}" if half > 0 else "a smaller size"
        run.fail(f"the GPU's memory holds no update of {shape} frames; try {fitting}")
        return
    run.is_halved, run.config = True, replace(run.config, replay=replace(replay, batch_size=half))
    rescale_updates(run, replay.batch_size)
    save_config(run.config, run.logdir / "config.yaml")
    run.note(f"the GPU's memory holds no update of {shape} frames; replay.batch_size is {half} from now on")


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


def explain(error: OSError, logdir: Path) -> str:
    """A file that could not be written, why, and what to do: one line."""
    place = error.filename if error.filename is not None else logdir
    hint = _HINTS.get(error.errno or 0, "mend that")
    return f"{place}: {error.strerror or error}; {hint}, then go on with --resume"
