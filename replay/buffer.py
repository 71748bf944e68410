"""ReplayBuffer: one ring of rows, in memory or in a file."""

import os
from collections import deque
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch

from replay.chunk import Chunk
from replay.entries import Entry, Row, pack_entries, pack_rows, stack_rows, unpack_entries, unpack_rows
from replay.episodes import EpisodeStore
from replay.rows import DTYPES, Episode, StepLike, check_episode, check_rows, field_shapes, row_bytes

STATE_KEYS = ("rng", "rows_added", "last_number", "episodes", "unfinished")


class ReplayBuffer:
    """The newest `capacity` rows, in which any T consecutive ones are a legal chunk.

    Whole finished episodes are written back to back into one flat ring per field; rows of unfinished episodes wait in
    a list per environment, outside of the capacity. So environments never mix, any window is legal, and the oldest rows
    make room row by row. Memory is taken as the ring fills. A `store` gets every finished episode on disk.

    Canonical use::

        buffer = ReplayBuffer(capacity_steps=100_000, action_dim=6, num_envs=4, seed=0)
        buffer.add(driver.tick(policy))
        if buffer.can_sample(64):
            chunk = buffer.sample(batch=16, length=64)
    """

    def __init__(
        self,
        capacity_steps: int | None = None,
        capacity_bytes: int | None = None,
        *,
        action_dim: int,
        num_envs: int = 1,
        image_shape: tuple[int, ...] = (64, 64, 3),
        seed: int = 0,
        store: EpisodeStore | None = None,
        memmap_folder: Path | str | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Capacity is the lesser of both, at least one given. Raises ValueError where a number is below 1.

        With a `memmap_folder` the ring is mapped from a nameless file there, so it may exceed the memory: the system
        keeps the rows in memory that are used and takes back the others; OSError where the disk cannot hold it.
        `pin_memory` (CUDA only) puts chunks where the GPU fetches them without the host waiting for it.
        """
        numbers = {"capacity_steps": capacity_steps, "action_dim": action_dim, "num_envs": num_envs}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}: came as {value}, expected at least 1")
        self.image_shape, self.action_dim, self.num_envs = tuple(image_shape), action_dim, num_envs
        self.row_bytes = row_bytes(self.image_shape, action_dim)
        if capacity_bytes is not None and capacity_bytes < self.row_bytes:
            raise ValueError(f"capacity_bytes: came as {capacity_bytes}, expected at least one row of {self.row_bytes}")
        limits = [] if capacity_steps is None else [capacity_steps]
        limits += [] if capacity_bytes is None else [capacity_bytes // self.row_bytes]
        if not limits:
            raise ValueError("capacity_steps: came as None like capacity_bytes, expected at least one of them")
        self.capacity = min(limits)
        shapes = field_shapes(self.image_shape, action_dim)
        self._ring = {
            name: _empty((self.capacity, *shapes[name]), DTYPES[name], memmap_folder) for name in Episode._fields
        }
        self._pin_memory = pin_memory
        self._written = 0  # rows ever written; row number i lies at i % capacity
        self._size = 0
        self._ends: deque[int] = deque()  # row number behind the last row of each episode in the ring
        self._entries: deque[Entry | None] = deque()  # each one's file, None without a store
        self._staged: list[list[Row]] = [[] for _ in range(num_envs)]
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._store = store
        self._last_number = -1  # of the newest episode on disk that went into the ring
        self._known: list[Entry] | None = None  # the episodes that load_state_dict says are this buffer's

    def __len__(self) -> int:
        """Rows that can be sampled."""
        return self._size

    @property
    def num_episodes(self) -> int:
        """Episodes with at least one row in the ring."""
        return len(self._ends)

    @property
    def num_staged(self) -> int:
        """Rows of unfinished episodes."""
        return sum(map(len, self._staged))

    @property
    def first_number(self) -> int:
        """Of the oldest episode on disk that has rows in the ring; where there is none, of the next one."""
        return next((entry.number for entry in self._entries if entry is not None), self._last_number + 1)

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that the full ring takes."""
        return self.capacity * self.row_bytes

    def can_sample(self, length: int) -> bool:
        """Whether there is a window of `length` rows."""
        return 1 <= length <= self._size

    def add(self, step: StepLike, envs: Sequence[int] | None = None) -> None:
        """One tick of all environments, or of those in `envs`, fields [N, ...]; copies what it keeps.

        Raises ValueError for wrong shapes, dtypes or ranges, rows out of order, an episode above the capacity, or envs
        that are not distinct numbers below num_envs.
        """
        chosen = range(self.num_envs) if envs is None else [int(env) for env in envs]
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(self.num_envs)):
            raise ValueError(f"envs: came as {list(chosen)}, expected distinct numbers from 0 to {self.num_envs - 1}")
        check_rows(step, "step", len(chosen), self.image_shape, self.action_dim)
        for row, env in enumerate(chosen):
            staged, is_first = self._staged[env], bool(step.is_first[row])
            if is_first == bool(staged):
                expected = "False inside an episode" if staged else "True at its start"
                raise ValueError(f"step.is_first[{row}]: came as {is_first}, expected {expected}")
            self._check_length(len(staged) + 1)
        for row, env in enumerate(chosen):
            self._staged[env].append({name: getattr(step, name)[row].copy() for name in Episode._fields})
            if step.is_last[row]:
                self._finish(env)

    def add_episode(self, episode: Episode) -> None:
        """One whole episode, fields [L, ...]; ValueError where it is none, or longer than the capacity."""
        check_episode(episode, self.image_shape, self.action_dim)
        self._check_length(len(episode.reward))
        entry = None
        if self._store is not None:
            entry = self._store.entry(self._store.append(episode))
            self._last_number = entry.number
        self._write(episode, entry)

    def finish_partial(self, envs: Iterable[int] | None = None) -> int:
        """Close the unfinished episodes of `envs` (all by default) as cut off -> how many; a single row is dropped."""
        closed = 0
        for env in range(self.num_envs) if envs is None else envs:
            rows = self._staged[env]
            if len(rows) < 2:
                rows.clear()
                continue
            rows[-1] |= {"is_last": np.True_, "action": np.zeros(self.action_dim, np.float32)}
            self._finish(env)
            closed += 1
        return closed

    def sample(self, batch: int, length: int) -> Chunk:
        """`batch` windows of `length` rows, each start equally likely -> Chunk that shares no memory with the ring.

        Raises ValueError where `batch` is below 1 or there are fewer than `length` rows.
        """
        if batch < 1:
            raise ValueError(f"batch: came as {batch}, expected at least 1")
        if not self.can_sample(length):
            raise ValueError(f"length: came as {length}, expected 1 to {self._size} (the rows in the buffer)")
        starts = self._rng.integers(0, self._size - length + 1, size=batch) + self._written - self._size
        rows = (starts[:, None] + np.arange(length)) % self.capacity  # [B, T]
        chunk = Chunk(*(torch.from_numpy(self._ring[name][rows]) for name in Chunk._fields))
        return Chunk(*(field.pin_memory() for field in chunk)) if self._pin_memory else chunk

    def state_dict(self) -> dict[str, Any]:
        """Sampler, counters, unfinished episodes and which finished ones are in the ring; their rows are on disk."""
        return {
            "rng": self._rng.bit_generator.state,
            "rows_added": self._written,
            "last_number": self._last_number,
            "episodes": pack_entries(entry for entry in self._entries if entry is not None),
            "unfinished": [pack_rows(rows) for rows in self._staged],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over `state_dict()`, before `restore`. Raises ValueError for other keys or a buffer that holds rows.

        The unfinished episodes of another number of environments are left behind.
        """
        if set(state) != set(STATE_KEYS):
            raise ValueError(f"state: came with the keys {sorted(state)}, expected {sorted(STATE_KEYS)}")
        if self._size > 0 or self.num_staged > 0:
            raise ValueError(f"load_state_dict: came for a buffer with {self._size} rows, expected an empty one")
        if len(state["unfinished"]) == self.num_envs:
            self._staged = [unpack_rows(packed) for packed in state["unfinished"]]
        self._rng.bit_generator.state = state["rng"]
        self._written, self._last_number = int(state["rows_added"]), int(state["last_number"])
        self._known = unpack_entries(state["episodes"])

    def restore(self, store: EpisodeStore) -> int:
        """Fill an empty buffer with the newest episodes on disk, in their order -> rows read.

        After `load_state_dict` these are the very episodes that the buffer of that state held, so that sampling goes on
        exactly as it would have. The store sets aside what is damaged, does not fit or is another episode.
        """
        if self._size > 0:
            raise ValueError(f"restore: came for a buffer with {self._size} rows, expected an empty one")
        entries = store.entries() if self._known is None else self._known
        start, rows = len(entries), 0
        while start > 0 and rows < self.capacity:
            start -= 1
            rows += entries[start].length
        self._written = max(0, self._written - rows)
        for entry, episode in store.load_known(entries[start:], self.row_bytes, self._check_fit):
            self._write(episode, entry)
        if entries and self._known is None:
            self._last_number = entries[-1].number
        return self._size

    def _check_fit(self, episode: Episode) -> None:
        check_episode(episode, self.image_shape, self.action_dim)

    def _finish(self, env: int) -> None:
        rows = self._staged[env]
        self.add_episode(stack_rows(rows))
        rows.clear()

    def _write(self, episode: Episode, entry: Entry | None) -> None:
        """Append rows behind the newest, over the oldest; of an episode longer than the ring the end stays."""
        skip = max(0, len(episode.reward) - self.capacity)
        self._written += skip
        length = len(episode.reward) - skip
        start = self._written % self.capacity
        first = min(length, self.capacity - start)
        for name, values in episode._asdict().items():
            self._ring[name][start : start + first] = values[skip : skip + first]
            self._ring[name][: length - first] = values[skip + first :]
        self._written += length
        self._size = min(self._size + length, self.capacity)
        self._ends.append(self._written)
        self._entries.append(entry)
        while self._ends[0] <= self._written - self._size:
            self._ends.popleft()
            self._entries.popleft()

    def _check_length(self, length: int) -> None:
        if length > self.capacity:
            raise ValueError(f"episode: came with {length} rows, expected at most the capacity of {self.capacity}")


def _empty(shape: tuple[int, ...], dtype: np.dtype, folder: Path | str | None) -> np.ndarray:
    """An array that takes memory as it is written; with a folder, one whose disk space is taken now."""
    if folder is None:
        return np.empty(shape, dtype)
    with TemporaryFile(dir=folder) as file:  # without a name: it goes when the process ends, however it ends
        if hasattr(os, "posix_fallocate"):  # a disk that fills up later would be a crash at a write to memory
            os.posix_fallocate(file.fileno(), 0, prod(shape) * dtype.itemsize)
        return np.asarray(np.memmap(file, dtype, "w+", shape=shape))
