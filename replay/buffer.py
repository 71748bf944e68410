"""ReplayBuffer: the newest rows, in memory or in a file, including those of running episodes."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replay.chunk import Chunk
from replay.entries import Entry, pack_entries, pack_rows, unpack_entries, unpack_rows
from replay.episodes import EpisodeStore
from replay.rows import DTYPES, Episode, StepLike, bytes_of, check_episode, check_rows, cut_off, field_shapes

STATE_KEYS = ("rng", "rows", "rows_added", "last_number", "episodes", "unfinished")
Slots = NDArray[np.int64]


class ReplayBuffer:
    """The newest `capacity` rows: finished episodes back to back, and the running episode of every environment.

    A chunk is a window of T consecutive rows, either of the finished rows, where it may span episodes (is_first inside
    it), or of one running episode. So environments never mix, and an episode can be sampled as soon as it has T rows.
    Every window is equally likely, or with `recency` r newer ones are more so: by the r-th power of their place in the
    order of age, in which the running episodes come last, one after the other. In a run whose buffer grows evenly up to
    time 1, uniform windows replay a row of time t in proportion to ln(1 / t), old ones over and over and new ones
    hardly; these replay it in proportion to 1 - t^r.

    A row is written once, into a free slot of one flat array per field. When its episode ends, the slot's number is
    appended to those of the finished rows; if no slot is free, a new row takes that of the oldest finished one. Memory
    is allocated as the slots fill. An episode may have `longest` = capacity // num_envs rows, so that parallel episodes
    always fit. A `store` writes every finished episode to disk. `len` counts the rows of finished episodes,
    `num_staged` those of running ones; together they are at most `capacity`.

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
        recency: float = 0.0,
        vector_dim: int | None = None,
    ) -> None:
        """Create an empty buffer with the smaller of both capacities, of which at least one is required.

        With a `memmap_folder` the rows are mapped from an unnamed file there and may exceed the memory: the system
        keeps recently used rows in memory. `pin_memory` (CUDA only) lets the GPU copy chunks without blocking the
        host. ValueError for a number below 1 or a negative recency, OSError if the disk cannot hold the file.
        """
        numbers = {"capacity_steps": capacity_steps, "action_dim": action_dim, "num_envs": num_envs}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, expected at least 1")
        if not 0 <= recency < float("inf"):
            raise ValueError(f"recency: got {recency}, expected a number of at least 0")
        self._recency = recency
        self.image_shape, self.action_dim, self.num_envs = tuple(image_shape), action_dim, num_envs
        self.shapes = field_shapes(self.image_shape, action_dim, vector_dim)
        self.row_bytes = bytes_of(self.shapes)
        if capacity_bytes is not None and capacity_bytes < self.row_bytes:
            raise ValueError(f"capacity_bytes: got {capacity_bytes}, expected at least one row of {self.row_bytes}")
        limits = [] if capacity_steps is None else [capacity_steps]
        limits += [] if capacity_bytes is None else [capacity_bytes // self.row_bytes]
        if not limits:
            raise ValueError("capacity_steps, capacity_bytes: got neither, expected at least one of them")
        self.capacity = min(limits)
        if self.capacity < num_envs:
            raise ValueError(f"capacity: got room for {self.capacity} rows, expected at least num_envs ({num_envs})")
        self.longest = self.capacity // num_envs
        self._rows = {
            name: _empty((self.capacity, *shape), DTYPES[name], memmap_folder) for name, shape in self.shapes.items()
        }
        self._pin_memory = pin_memory
        self._fresh = 0  # slots from here on have never been used
        self._free: list[int] = []  # slots whose rows were dropped
        self._finished: Slots = np.zeros(self.capacity, np.int64)  # slot of finished row number i, at i % capacity
        self._written = 0  # finished rows ever
        self._size = 0  # finished rows that are still here
        self._ends: deque[int] = deque()  # row number after the last row of each finished episode
        self._entries: deque[Entry | None] = deque()  # the file of each finished episode, None without a store
        self._running: Slots = np.zeros((num_envs, self.longest), np.int64)  # slots of the running episodes
        self._lengths = np.zeros(num_envs, np.int64)  # rows of each running episode
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._store = store
        self._last_number = -1  # number of the newest episode on disk that was finished here or read
        self._known: list[Entry] | None = None  # this buffer's episodes according to load_state_dict
        self._known_rows: int | None = None  # and the number of their rows

    def __len__(self) -> int:
        """Return the number of rows of finished episodes."""
        return self._size

    @property
    def num_episodes(self) -> int:
        """The number of finished episodes with at least one row here."""
        return len(self._ends)

    @property
    def num_staged(self) -> int:
        """The number of rows of running episodes."""
        return int(self._lengths.sum())

    @property
    def num_running(self) -> NDArray[np.int64]:
        """The number of rows of each environment's running episode [num_envs]."""
        return self._lengths.copy()

    @property
    def first_number(self) -> int:
        """The number of the oldest episode on disk that has rows here, or of the next episode if there is none."""
        return next((entry.number for entry in self._entries if entry is not None), self._last_number + 1)

    @property
    def num_bytes(self) -> int:
        """The bytes of memory that all rows take."""
        return self.capacity * self.row_bytes

    def can_sample(self, length: int) -> bool:
        """Return whether there is a window of `length` rows."""
        return 1 <= length <= self._longest_window()

    def add(self, step: StepLike, envs: Sequence[int] | None = None) -> None:
        """Add a copy of one tick of all environments, or of those in `envs`, with fields [N, ...].

        Raises ValueError for wrong shapes, dtypes or ranges, rows out of order, an episode above `longest`, or envs
        that are not distinct numbers below num_envs.
        """
        chosen = range(self.num_envs) if envs is None else [int(env) for env in envs]
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(self.num_envs)):
            raise ValueError(f"envs: got {list(chosen)}, expected distinct numbers from 0 to {self.num_envs - 1}")
        check_rows(step, "step", len(chosen), self.shapes)
        for row, env in enumerate(chosen):
            length, is_first = int(self._lengths[env]), bool(step.is_first[row])
            if is_first == (length > 0):
                expected = "False inside an episode" if length > 0 else "True at its start"
                raise ValueError(f"step.is_first[{row}]: got {is_first}, expected {expected}")
            if length == self.longest:
                expected = f"at most {self.longest} (the capacity over the number of environments)"
                raise ValueError(f"episode: got {length + 1} rows, expected {expected}")
        slots = self._take_slots(len(chosen))
        for name, rows in self._rows.items():
            rows[slots] = getattr(step, name)
        places = np.array(chosen, np.int64)
        self._running[places, self._lengths[places]] = slots
        self._lengths[places] += 1
        for env in places[step.is_last]:
            self._finish(int(env))

    def add_episode(self, episode: Episode, metadata: dict[str, Any] | None = None) -> None:
        """Add one whole episode with fields [L, ...], and store it with JSON-serialisable metadata.

        ValueError if it is invalid, or longer than the capacity.
        """
        check_episode(episode, self.shapes)
        length = len(episode.reward)
        if length > self.capacity:
            raise ValueError(f"episode: got {length} rows, expected at most the capacity of {self.capacity}")
        self._write(episode, None if self._store is None else self._keep(self._store, episode, metadata))

    def finish_partial(self, envs: Iterable[int] | None = None) -> int:
        """Truncate the running episodes of `envs` (default: all), drop single rows, and return the number truncated."""
        closed = 0
        for env in range(self.num_envs) if envs is None else envs:
            slots = self._slots(env)
            if len(slots) < 2:
                self._free += slots.tolist()
                self._lengths[env] = 0
                continue
            self._rows["is_last"][slots[-1]], self._rows["action"][slots[-1]] = True, 0.0
            self._finish(env)
            closed += 1
        return closed

    def episodes(self) -> Iterator[Episode]:
        """Yield copies of the complete episodes, oldest first, then of the running ones, truncated."""
        start = self._written - self._size
        for end in self._ends:
            episode = self._gather(self._finished[np.arange(start, end) % self.capacity])
            if episode.is_first[0]:
                yield episode
            start = end
        for env in np.flatnonzero(self._lengths > 1):
            yield cut_off(self._gather(self._slots(int(env))))

    def sample(self, batch: int, length: int) -> Chunk:
        """Sample `batch` windows of `length` rows, by their recency, as a Chunk of copies.

        Raises ValueError if `batch` is below 1 or there is no window of `length` rows.
        """
        if batch < 1:
            raise ValueError(f"batch: got {batch}, expected at least 1")
        if not self.can_sample(length):
            most = self._longest_window()
            raise ValueError(f"length: got {length}, expected 1 to {most} (the longest sequence)")
        windows = np.maximum(np.array([self._size, *self._lengths]) - length + 1, 0)  # [1 + N], finished rows first
        ends = windows.cumsum()
        starts = self._draw(ends[-1], batch)
        numbers = (self._written - self._size + starts[:, None] + np.arange(length)) % self.capacity
        slots = self._finished[numbers]  # [B, T]
        for i in np.flatnonzero(starts >= ends[0]):
            env = np.searchsorted(ends, starts[i], "right") - 1
            start = starts[i] - ends[env]
            slots[i] = self._running[env, start : start + length]
        chunk = Chunk(**{name: torch.from_numpy(rows.take(slots, 0)) for name, rows in self._rows.items()})
        return chunk.map(Tensor.pin_memory) if self._pin_memory else chunk

    def _draw(self, windows: int, count: int) -> NDArray[np.int64]:
        """Draw the numbers of windows, which are ordered by age from the oldest on."""
        if self._recency == 0:
            return self._rng.integers(0, windows, size=count)
        places = self._rng.random(count) ** (1 / (1 + self._recency))  # the r-th power is the density of these
        return np.minimum((places * windows).astype(np.int64), windows - 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the sampler's state, counters, running episodes, and the entries of finished ones, without rows."""
        return {
            "rng": self._rng.bit_generator.state,
            "rows": self._size,
            "rows_added": self._written,
            "last_number": self._last_number,
            "episodes": pack_entries(entry for entry in self._entries if entry is not None),
            "unfinished": [pack_rows(self._gather(self._slots(env))) for env in range(self.num_envs)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`, before `restore`. Raises ValueError for other keys or a buffer that holds rows.

        If the number of environments has changed, the running episodes are dropped. States of versions that did not
        sample running episodes have no "rows", and their running episodes may exceed `longest`: ValueError.
        """
        if set(state) | {"rows"} != set(STATE_KEYS):
            raise ValueError(f"state: got the keys {sorted(state)}, expected {sorted(STATE_KEYS)}")
        if self._size > 0 or self.num_staged > 0:
            raise ValueError(f"load_state_dict: got a buffer with {self._size} rows, expected an empty one")
        if len(state["unfinished"]) == self.num_envs:
            for env, packed in enumerate(state["unfinished"]):
                self._run(env, unpack_rows(packed))
        self._rng.bit_generator.state = state["rng"]
        self._written, self._last_number = int(state["rows_added"]), int(state["last_number"])
        self._known, self._known_rows = unpack_entries(state["episodes"]), state.get("rows")

    def restore(self, store: EpisodeStore) -> int:
        """Fill a buffer without finished rows with the newest episodes on disk, in order; return the number of rows.

        After `load_state_dict` these are exactly the episodes that the buffer held, so that sampling continues as it
        would have. The store quarantines episodes that are damaged, do not fit or are not the expected ones.
        """
        if self._size > 0:
            raise ValueError(f"restore: got a buffer with {self._size} rows, expected an empty one")
        entries = store.entries() if self._known is None else self._known
        start, rows, room = len(entries), 0, self.capacity - self.num_staged
        while start > 0 and rows < room:
            start -= 1
            rows += entries[start].length
        self._written = max(0, self._written - rows)
        for entry, episode in store.load_known(entries[start:], self.row_bytes, self._check_fit):
            self._write(episode, entry)
        if self._known_rows is not None:
            self._free += self._drop_oldest(max(0, self._size - self._known_rows)).tolist()
        if entries and self._known is None:
            self._last_number = entries[-1].number
        return self._size

    def _check_fit(self, episode: Episode) -> None:
        check_episode(episode, self.shapes)

    def _longest_window(self) -> int:
        return max(self._size, int(self._lengths.max()))

    def _slots(self, env: int) -> Slots:
        """Return the slots of an environment's running episode."""
        return self._running[env, : self._lengths[env]]

    def _gather(self, slots: Slots) -> Episode:
        """Copy the rows in these slots."""
        return Episode(**{name: rows.take(slots, 0) for name, rows in self._rows.items()})

    def _keep(self, store: EpisodeStore, episode: Episode, metadata: dict[str, Any] | None = None) -> Entry:
        entry = store.entry(store.append(episode, metadata))
        self._last_number = entry.number
        return entry

    def _run(self, env: int, episode: Episode | None) -> None:
        """Begin a running episode with these rows."""
        length = 0 if episode is None else len(episode.reward)
        if length > self.longest:
            raise ValueError(
                f"unfinished[{env}]: got a running episode of {length} rows from an earlier version, expected "
                f"at most {self.longest} (capacity // num_envs); with another number of environments new ones begin"
            )
        if episode is not None:
            slots = self._take_slots(length)
            self._put(episode, slots)
            self._running[env, :length], self._lengths[env] = slots, length

    def _finish(self, env: int) -> None:
        """Make a completed running episode the newest finished one, without copying its rows."""
        entry = None if self._store is None else self._keep(self._store, self._gather(self._slots(env)))
        self._append(self._slots(env), entry)
        self._lengths[env] = 0

    def _write(self, episode: Episode, entry: Entry | None) -> None:
        """Append an episode as the newest; of one longer than the space beside running episodes, only its end."""
        skip = max(0, len(episode.reward) - (self.capacity - self.num_staged))
        episode = episode.map(lambda values: values[skip:])
        slots = self._take_slots(len(episode.reward))
        self._put(episode, slots)
        self._written += skip
        self._append(slots, entry)

    def _put(self, episode: Episode, slots: Slots) -> None:
        for name, values in episode.fields().items():
            self._rows[name][slots] = values

    def _append(self, slots: Slots, entry: Entry | None) -> None:
        """Append the rows in these slots as the newest episode."""
        self._finished[(self._written + np.arange(len(slots))) % self.capacity] = slots
        self._written += len(slots)
        self._size += len(slots)
        self._ends.append(self._written)
        self._entries.append(entry)
        self._drop_oldest(0)  # drops the episode itself if none of its rows fit

    def _take_slots(self, count: int) -> Slots:
        """Return slots for `count` new rows: free ones, then those of the oldest finished rows."""
        given = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = min(self._fresh + count - len(given), self.capacity)
        given += range(self._fresh, fresh)
        self._fresh = fresh
        return np.concatenate([np.array(given, np.int64), self._drop_oldest(count - len(given))])

    def _drop_oldest(self, count: int) -> Slots:
        """Drop the `count` oldest finished rows, and episodes without remaining rows; return the rows' slots."""
        assert count <= self._size
        numbers = self._written - self._size + np.arange(count)
        self._size -= count
        while self._ends and self._ends[0] <= self._written - self._size:
            self._ends.popleft()
            self._entries.popleft()
        return self._finished[numbers % self.capacity]


def _empty(shape: tuple[int, ...], dtype: np.dtype, folder: Path | str | None) -> np.ndarray:
    """Return an array that takes memory as it is written; with a folder, one mapped to reserved disk space."""
    if folder is None or 0 in shape:
        return np.empty(shape, dtype)
    with TemporaryFile(dir=folder) as file:  # unnamed: removed when the process ends, however it ends
        if hasattr(os, "posix_fallocate"):  # otherwise a full disk would crash a later write to memory
            os.posix_fallocate(file.fileno(), 0, prod(shape) * dtype.itemsize)
        return np.asarray(np.memmap(file, dtype, "w+", shape=shape))
