"""Replay against a memcpy of the same bytes, the memory that it takes, and a soak.

    python -m benchmarks.speed.replay [--rows 100000] [--repeats 101] [--minutes 10] [--folder /tmp] [--json out.json]

sample_*_ms and memcpy_*_ms are taken in turns. The memcpy takes frames from the ring too, all side by side and into an
array that is there already; the sample takes windows, every field, and new memory for its chunk. "file" is a ring with
a memmap_folder, its rows in the page cache; "cold" is its first batch after the system was asked to put them out to the
disk. Raw bytes are those of the rows in the ring and of the unfinished episodes of 8 environments beside it. The soak
adds episodes of 500 rows to a full ring with a store, pruned as in a run, and samples as often as train_ratio 512 asks.
"""

import argparse
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness.command import Command, Report, show_results
from benchmarks.harness.timing import alternate
from replay import Episode, EpisodeStore, ReplayBuffer

BATCHES = {"16x64": (16, 64), "8x16": (8, 16)}
ACTION_DIM = 6
NUM_ENVS = 8
EPISODE = 500  # rows
SOAK_ROWS = 20_000
Results = dict[str, float]
MADV_PAGEOUT = 21  # Linux 5.4


def ticks(num_envs: int, length: int) -> Iterator[Episode]:
    """Endless rows of `num_envs` environments, fields [N, ...], in fresh arrays; plain frames, which compress well."""
    rng = np.random.default_rng(0)
    for t in count():
        step = t % length
        colours = rng.integers(0, 256, (num_envs, 1, 1, 3), dtype=np.uint8)
        action = rng.uniform(-1, 1, (num_envs, ACTION_DIM)).astype(np.float32)
        is_first, is_last = np.full(num_envs, step == 0), np.full(num_envs, step == length - 1)
        yield Episode(
            image=np.broadcast_to(colours, (num_envs, 64, 64, 3)).copy(),
            reward=np.where(is_first, 0, rng.uniform(0, 1, num_envs)).astype(np.float32),
            is_first=is_first,
            is_last=is_last,
            is_terminal=np.zeros(num_envs, bool),
            action=np.where(is_last[:, None], 0, action),
        )


def filled(rows: int, folder: Path | None = None) -> ReplayBuffer:
    """A ring of `rows` rows, in memory or in a file of `folder`; it is full, and so are the unfinished episodes."""
    buffer = ReplayBuffer(rows, action_dim=ACTION_DIM, num_envs=NUM_ENVS, memmap_folder=folder)
    for tick in ticks(NUM_ENVS, EPISODE):
        if len(buffer) + buffer.num_staged == rows and buffer.num_staged == NUM_ENVS * (EPISODE - 1):
            break
        buffer.add(tick)
    return buffer


def resident() -> tuple[int, int]:
    """Bytes of memory that are this process' own, and those that belong to files it has mapped."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    own, files = (1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile"))
    return own, files


def measure_memory(rows: int, folder: Path) -> tuple[Results, ReplayBuffer, ReplayBuffer]:
    """Memory that full rings take, over the raw bytes of the rows that they hold -> results, both rings."""
    start = resident()[0]
    memory = filled(rows)
    middle = resident()[0]
    file = filled(rows, folder)
    raw = (len(memory) + memory.num_staged) * memory.row_bytes
    results = {
        "ring_gb": memory.num_bytes / 1e9,
        "unfinished_episodes_gb": memory.num_staged * memory.row_bytes / 1e9,
        "memory_over_raw": (middle - start) / raw,
        "own_memory_over_raw_file": (resident()[0] - middle) / raw,
    }
    return results, memory, file


def measure_speed(memory: ReplayBuffer, file: ReplayBuffer, repeats: int) -> Results:
    """Milliseconds of a batch from each ring, and of a memcpy of as many frames that lie side by side in the first."""
    results: Results = {}
    rng, frames = np.random.default_rng(0), memory._rows["image"]

    def memcpy(target: np.ndarray) -> None:
        start = rng.integers(0, len(frames) - len(target) + 1)
        np.copyto(target, frames[start : start + len(target)])

    for name, (batch, length) in BATCHES.items():
        works: dict[str, Callable[[], object]] = {
            f"memcpy_{name}": partial(memcpy, np.zeros((batch * length, *memory.image_shape), np.uint8)),
            f"sample_{name}": partial(memory.sample, batch, length),
            f"sample_{name}_file": partial(file.sample, batch, length),
        }
        seconds = alternate(works, repeats)
        results |= {f"{work}_ms": 1000 * value for work, value in seconds.items()}
        for kind in (f"sample_{name}", f"sample_{name}_file"):
            results[f"{kind}_over_memcpy"] = seconds[kind] / seconds[f"memcpy_{name}"]
    return results


def measure_cold(file: ReplayBuffer) -> Results:
    """Milliseconds of the first batch after the rows were put out to the disk."""
    pages: mmap.mmap = file._rows["image"].base._mmap  # type: ignore[union-attr]
    pages.flush()
    before = resident()[1]
    pages.madvise(MADV_PAGEOUT)
    freed = before - resident()[1]
    start = time.perf_counter()
    file.sample(*BATCHES["16x64"])
    return {"cold_freed_gb": freed / 1e9, "sample_16x64_file_cold_ms": 1000 * (time.perf_counter() - start)}


def soak(minutes: float, folder: Path) -> Results:
    """Add and sample for some minutes after the ring is full; memory and file handles at the ends of episodes."""
    store = EpisodeStore(folder)
    buffer = ReplayBuffer(SOAK_ROWS, action_dim=ACTION_DIM, num_envs=NUM_ENVS, store=store)
    points: list[tuple[int, int]] = []
    start, samples = time.monotonic(), 0
    for number, tick in enumerate(ticks(NUM_ENVS, EPISODE)):
        buffer.add(tick)
        if buffer.can_sample(64) and number % 2 == 0:
            for _ in range(NUM_ENVS):  # train_ratio 512: an update on 16 x 64 rows for every two decisions
                buffer.sample(*BATCHES["16x64"])
                samples += 1
        if number % EPISODE < EPISODE - 1:
            continue
        store.prune(buffer.capacity)
        if len(buffer) < SOAK_ROWS:
            start = time.monotonic()
        else:
            points.append((sum(resident()), len(os.listdir("/proc/self/fd"))))
        if time.monotonic() - start > 60 * minutes and points:
            break
    memory, handles = np.array(points).T
    return {
        "soak_minutes": minutes,
        "soak_rows_written": buffer.state_dict()["rows_added"],
        "soak_samples": samples,
        "soak_resident_first_mb": float(memory[0]) / 1e6,
        "soak_resident_last_mb": float(memory[-1]) / 1e6,
        "soak_resident_least_mb": float(memory.min()) / 1e6,
        "soak_resident_most_mb": float(memory.max()) / 1e6,
        "soak_handles_least": int(handles.min()),
        "soak_handles_most": int(handles.max()),
    }


def measure(given: argparse.Namespace) -> Report:
    """All figures of the command."""
    if not Path("/proc/self/status").exists():
        raise ValueError("system: got one without /proc, expected Linux")
    results, memory, file = measure_memory(given.rows, given.folder)
    results |= measure_speed(memory, file, given.repeats)
    results |= measure_cold(file)
    del memory, file
    if given.minutes > 0:
        with TemporaryDirectory(dir=given.folder) as folder:
            results |= soak(given.minutes, Path(folder))
    return {"results": results}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    command = Command("speed.replay", __doc__)
    command.set_defaults(threads=1)
    command.add_number("rows", 100_000, "rows of the rings; 12.3 kB each", least=1000)
    command.add_number("repeats", 101)
    command.add_number("minutes", 10.0, "length of the soak; 0 leaves it out", least=0)
    command.add_argument("--folder", type=Path, default=Path("/tmp"), help="disk for the ring in a file and the soak")
    return command.run(arguments, measure, show_results)


if __name__ == "__main__":
    sys.exit(main())
