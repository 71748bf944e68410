"""Episodes as other programs store them: frames, and between each two of them an action and its reward."""

from typing import NamedTuple

import numpy as np

from replay.rows import Episode, check_episode


class Transitions(NamedTuple):
    """One episode of L frames and L - 1 transitions; our rows are the same, shifted:

         t:                0        1        2        3 (last)
         frames[t]:        x0       x1       x2       x3
         actions[t]:       a0       a1       a2                  row t: a_t
         rewards[t]:       r1       r2       r3                  row t: r_t, 0 in row 0

    rewards[t] followed actions[t], and row t + 1 holds it, because it arrived with that row's frame.
    """

    frames: np.ndarray  # uint8 [L, H, W, 3]
    actions: np.ndarray  # [L - 1, A] in [-1, 1]
    rewards: np.ndarray  # [L - 1]
    is_terminal: bool  # whether no value lies beyond the last frame
    vectors: np.ndarray | None = None  # [L, V], beside the frames


def to_rows(given: Transitions) -> Episode:
    """Return the rows of an episode, numbers as float32. ValueError for other shapes, dtypes or ranges."""
    frames, actions, rewards = (np.asarray(values) for values in given[:3])
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames: got {frames.dtype} {list(frames.shape)}, expected uint8 [L, H, W, 3]")
    for name, values, rank in (("actions", actions, 2), ("rewards", rewards, 1)):
        if values.dtype.kind not in "fiu" or values.ndim != rank:
            shape = "[L - 1, A]" if rank == 2 else "[L - 1]"
            raise ValueError(f"{name}: got {values.dtype} {list(values.shape)}, expected numbers {shape}")
        if len(values) != len(frames) - 1:
            counts = f"got {len(values)} of them and {len(frames)} frames, expected one frame more"
            raise ValueError(f"{name}: {counts}: the frame after the last action is part of an episode")
    vectors = None if given.vectors is None else np.asarray(given.vectors)
    if vectors is not None and (vectors.dtype.kind not in "fiub" or vectors.ndim != 2 or len(vectors) != len(frames)):
        got = f"{vectors.dtype} {list(vectors.shape)}"
        raise ValueError(f"vectors: got {got}, expected numbers [{len(frames)}, V], one vector for each frame")
    length = len(frames)
    if length < 2:
        raise ValueError(f"frames: got {length}, expected at least 2, those before and after an action")
    is_last = np.arange(length) == length - 1
    episode = Episode(
        image=frames,
        reward=np.concatenate([np.zeros(1), rewards]).astype(np.float32),
        is_first=np.arange(length) == 0,
        is_last=is_last,
        is_terminal=is_last & bool(given.is_terminal),
        action=np.concatenate([actions, np.zeros((1, actions.shape[1]))]).astype(np.float32),
        vector=None if vectors is None else vectors.astype(np.float32),
    )
    check_episode(episode)
    return episode


def from_rows(episode: Episode) -> Transitions:
    """Return the transitions of an episode. ValueError if it has a single row, so none."""
    if len(episode.reward) < 2:
        raise ValueError("episode: got a single row, expected at least 2, those before and after an action")
    is_terminal = bool(episode.is_terminal[-1])
    return Transitions(episode.image, episode.action[:-1], episode.reward[1:], is_terminal, episode.vector)
