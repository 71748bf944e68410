"""Episodes as .npz files of arrays, one file each, as collections of pixel data are passed around."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from replay.rows import Episode
from replay.transitions import Transitions, to_rows

FRAMES = ("observation/pixels", "observation.pixels", "observations/pixels", "pixels", "image", "observation")
ACTIONS, REWARDS, VECTORS = ("action", "actions"), ("reward", "rewards"), ("vector", "vectors")


def read_npz(path: Path) -> Episode:
    """Read an episode from an .npz file. A one-line ValueError, naming the file, if it is damaged or holds others.

    Keys, of which the first of each line that there is counts:

        FRAMES     uint8 [L, H, W, 3] or [L, 3, H, W]; optional beside VECTORS
        ACTIONS    [L - 1, A] or [L, A] in [-1, 1]
        REWARDS    [L - 1] or [L]
        VECTORS    numbers [L, V] beside the frames, or alone; optional beside FRAMES
        is_terminal, discount: optional; the last entry says whether a value lies beyond the end (True, 0.0: no)

    With L - 1 actions and rewards, number t belongs between frames t and t + 1. With L of each, number t led to frame
    t, as Dreamer's replay has it, and those of the first frame are zeros. Files that hold "the action chosen at frame
    t" in L rows need their last action and reward removed: zeros there would not tell which of the two they are.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return _episode(file)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from None


def _episode(file: Mapping[str, np.ndarray]) -> Episode:
    vectors = _first(file, VECTORS) if any(name in file for name in VECTORS) else None
    if vectors is not None and not any(name in file for name in FRAMES):
        frames = np.zeros((len(vectors), 0, 0, 3), np.uint8)
    else:
        frames = _first(file, FRAMES)
    actions, rewards = (_first(file, names) for names in (ACTIONS, REWARDS))
    if frames.ndim == 4 and frames.shape[-1] != 3 and frames.shape[1] == 3:
        frames = np.ascontiguousarray(np.moveaxis(frames, 1, -1))
    if "is_first" in file and np.asarray(file["is_first"])[1:].any():
        raise ValueError("is_first: got a second beginning, expected one episode per file")
    if len(frames) == len(actions) == len(rewards):
        if np.any(actions[0]) or rewards[0] != 0:
            expected = "expected zeros, the action and reward that led to it, or one of each fewer than frames"
            raise ValueError(
                f"action, reward: got other values than zeros at the first of {len(frames)} frames, {expected}"
            )
        actions, rewards = actions[1:], rewards[1:]
    return to_rows(Transitions(frames, actions, rewards, _is_terminal(file), vectors))


def _first(file: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """Return the array of the first of these keys; ValueError if there is none, or it has no rows."""
    for name in names:
        if name in file:
            if np.ndim(file[name]) == 0 or len(file[name]) == 0:
                raise ValueError(f"{name}: got no rows, expected those of an episode")
            return file[name]
    raise ValueError(f"keys: got {', '.join(sorted(file)) or 'none'}, expected one of {', '.join(names)}")


def _is_terminal(file: Mapping[str, np.ndarray]) -> bool:
    if "is_terminal" in file:
        return bool(np.reshape(file["is_terminal"], -1)[-1])
    return "discount" in file and float(np.reshape(file["discount"], -1)[-1]) == 0
