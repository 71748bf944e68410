"""Rows whose pixels say where they come from, so that order and mixing can be read from any chunk."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from replay import Chunk, Episode, ReplayBuffer
from replay.rows import join

IMAGE_SHAPE = (4, 4, 3)
ACTION_DIM = 2


def make_episode(length: int, worker: int = 0, episode: int = 0, is_terminal: bool = False) -> Episode:
    """Pixel (0,0) holds worker, episode and step (its low byte); (0,1) the step's high byte. reward[t] = t."""
    image = np.zeros((length, *IMAGE_SHAPE), np.uint8)
    steps = np.arange(length)
    image[:, 0, 0, 0] = worker
    image[:, 0, 0, 1] = episode % 256
    image[:, 0, 0, 2] = steps % 256
    image[:, 0, 1, 0] = steps // 256
    image[:, 3, 3] = 200 - (steps % 100)[:, None]
    action = np.linspace(-1, 1, length * ACTION_DIM, dtype=np.float32).reshape(length, ACTION_DIM)
    action[-1] = 0
    is_last = steps == length - 1
    return Episode(image, steps.astype(np.float32), steps == 0, is_last, is_last & is_terminal, action)


def decode(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [..., 4, 4, 3] -> (worker, episode, step), each [...]."""
    pixels = image.astype(np.int64)
    return pixels[..., 0, 0, 0], pixels[..., 0, 0, 1], pixels[..., 0, 0, 2] + 256 * pixels[..., 0, 1, 0]


def stream(lengths: Callable[[int, int], int], worker: int) -> Iterator[Episode]:
    """Single rows of endless episodes of one worker, as one-row `Episode`s."""
    episode = 0
    while True:
        whole = make_episode(lengths(worker, episode), worker, episode)
        for t in range(len(whole.reward)):
            yield whole.map(lambda field, t=t: field[t : t + 1])
        episode += 1


def ticks(num_envs: int, lengths: Callable[[int, int], int]) -> Iterator[Episode]:
    """Endless ticks of `num_envs` workers, fields [N, ...]."""
    streams = [stream(lengths, worker) for worker in range(num_envs)]
    while True:
        rows = [next(source) for source in streams]
        yield join(rows, np.concatenate)


def make_buffer(capacity: int = 100, **changes: Any) -> ReplayBuffer:
    kept: dict[str, Any] = {"action_dim": ACTION_DIM, "image_shape": IMAGE_SHAPE} | changes
    return ReplayBuffer(capacity, **kept)


def contents(buffer: ReplayBuffer) -> list[tuple[int, int, int]]:
    """(worker, episode, step) of every row in the ring, oldest first: the only window of that length."""
    if len(buffer) == 0:
        return []
    chunk = buffer.sample(1, len(buffer))
    return list(zip(*(part[0].tolist() for part in decode(chunk.image.numpy())), strict=True))


def assert_legal(chunk: Chunk) -> None:
    """Every sequence follows the streams it was cut from, row by row."""
    workers, episodes, steps = decode(chunk.image.numpy())
    first, last = chunk.is_first.numpy(), chunk.is_last.numpy()
    for w, e, s, f, z in zip(workers, episodes, steps, first, last, strict=True):
        assert (f == (s == 0)).all()
        for t in range(1, len(s)):
            if f[t]:
                assert z[t - 1]  # a new episode only behind a finished one
            else:
                assert not z[t - 1]
                assert (w[t], e[t], s[t]) == (w[t - 1], e[t - 1], s[t - 1] + 1)
    np.testing.assert_array_equal(chunk.reward.numpy(), steps)
    assert not chunk.action.numpy()[last].any()
