"""The number of torch's CPU threads in a run: the requested one, OMP_NUM_THREADS, or the fastest that was measured.

Threads wait for each other thousands of times per update: if another program keeps one core busy, two threads can be
ten times slower than one. Sums differ in their last bits between numbers of threads, so a run measures once, on a
throwaway agent, and keeps the number in its config.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from agent.config.settings import Config
from agent.learning.agent import Agent, choose_device
from agent.training.machine import current_load, usable_cores
from replay import Chunk

ALIKE = 1.1  # the fewest threads within this factor of the fastest time are chosen
SLOW = 3.0  # updates slower by this factor are reported
_SECONDS = 1.0  # for each number of threads
_WINDOW_SECONDS = 10.0  # of updates that are averaged for the comparison with earlier ones
_measured: dict[str, dict[int, float]] = {}  # once per process, so that two runs of one config use the same number


@dataclass(frozen=True)
class Threads:
    """The number of CPU threads of a run, the reason, and the seconds per update if it was measured."""

    count: int
    reason: str
    update_seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.count} ({self.reason})" if self.reason else str(self.count)


def environment_threads() -> int | None:
    """Return the number in OMP_NUM_THREADS, or None."""
    with suppress(ValueError):
        if (count := int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0])) > 0:
            return count
    return None


def one_update(config: Config) -> Callable[[], Any]:
    """Return a function that makes one update of a throwaway agent on noise."""
    dim = config.world_model.action_dim
    agent, chunk = Agent(config, dim), random_chunk(config, dim)
    return lambda: agent.update(chunk)


def choose_threads(config: Config, make_update: Callable[[Config], Callable[[], Any]]) -> Threads:
    """Return the config's `threads`; if 0, OMP_NUM_THREADS, else the fastest number up to torch's current one.

    make_update: returns the function to time, an update of the config's algorithm.
    """
    asked = environment_threads()
    if config.threads > 0:
        is_other = asked not in (None, config.threads)
        return Threads(config.threads, f"not OMP_NUM_THREADS={asked}, which --threads 0 uses" if is_other else "")
    if asked is not None:
        return Threads(asked, "OMP_NUM_THREADS")
    if choose_device(config.device).type != "cpu":
        return Threads(torch.get_num_threads(), "torch's default, with a GPU")
    counts = choices(min(torch.get_num_threads(), usable_cores()))
    if len(counts) == 1:
        return Threads(counts[0], "")
    shape = repr((config.algo, config.world_model, config.behavior, config.replay))
    if shape not in _measured:
        _measured[shape] = time_threads(make_update(config), counts, _SECONDS)
    times = _measured[shape]
    best = fastest(times)
    return Threads(best, f"measured: {describe(times, counts)}", times[best])


def choices(most: int) -> list[int]:
    """Return 1, 2, 4, ... and `most`."""
    return sorted({*(2**power for power in range(most.bit_length())), most})


def fastest(times: Mapping[int, float]) -> int:
    """Return the fewest threads whose updates take about as long as those of the fastest number."""
    return min(count for count, seconds in times.items() if seconds <= ALIKE * min(times.values()))


def describe(times: Mapping[int, float], counts: Iterable[int]) -> str:
    """Describe times: "1 thread 230 ms, 2 threads 170 ms per update, slower: 4, 8" (`counts` that were not timed)."""
    parts = [f"{count} thread{'s' * (count > 1)} {1000 * seconds:,.0f} ms" for count, seconds in times.items()]
    others = [str(count) for count in counts if count not in times]
    return f"{', '.join(parts)} per update{', slower: ' * bool(others)}{', '.join(others)}"


def time_threads(update: Callable[[], Any], counts: Iterable[int], seconds: float) -> dict[int, float]:
    """Return threads -> mean seconds of four updates, or of fewer if they take longer than `seconds`.

    `counts` ascend; timing stops once more threads gain nothing, and before those that would wait for a core.
    """
    before, times = torch.get_num_threads(), dict[int, float]()
    try:
        torch.set_num_threads(1)
        update()
        alone = operations_per_second()
        for count in counts:
            torch.set_num_threads(count)
            best = min(times.values(), default=math.inf)
            if count > 1 and operations_per_second() < alone / SLOW:
                break  # an update may take a minute
            times[count], _ = timed(update, 4, seconds, warm_up=False)
            if times[count] > best:
                break
    finally:
        torch.set_num_threads(before)
    return times


def operations_per_second() -> float:
    """Count small operations that torch splits among its threads, for about a fifth of a second."""
    values, done, start = torch.ones(100_000), 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < 0.2:
        values.mul_(1.0)
        done += 1
    return done / seconds


def timed(work: Callable[[], Any], count: int, seconds: float = 0.0, warm_up: bool = True) -> tuple[float, int]:
    """Return the mean seconds of up to `count` calls within about `seconds`, at least one, and their number."""
    if warm_up:
        work()
    _wait()
    done, start = 0, time.perf_counter()
    while done < count and (done == 0 or time.perf_counter() - start < seconds):
        work()
        _wait()
        done += 1
    return (time.perf_counter() - start) / done, done


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def random_chunk(config: Config, action_dim: int) -> Chunk:
    """Return a chunk [B, T] of noise without resets, in the sizes of a run."""
    random = torch.Generator().manual_seed(0)
    batch, length = config.replay.batch_size, config.replay.sample_length
    image = torch.randint(0, 256, (batch, length, *config.env.image_shape), generator=random, dtype=torch.uint8)
    flags = torch.zeros(batch, length, dtype=torch.bool)
    action = 2 * torch.rand(batch, length, action_dim, generator=random) - 1
    vector_dim = config.world_model.vector_dim
    vector = None if vector_dim is None else torch.rand(batch, length, vector_dim, generator=random)
    return Chunk(image, torch.rand(batch, length, generator=random), flags, flags, flags, action, vector)


# ---------------------------------------------------------------- an overloaded machine


def overload() -> str:
    """Return a line if more programs are ready to run than there are cores, else an empty one."""
    load = current_load()
    is_full = load.programs > load.cores
    return f"{load}: other programs are busy; updates will be slow, and the ETA unreliable" if is_full else ""


class Pace:
    """The pace of updates, which reports once that they have become much slower.

    Args:
        threads: threads of the run; their measured time is the first one that updates are compared with.
    """

    def __init__(self, threads: Threads) -> None:
        self._count, self._best = threads.count, threads.update_seconds or math.inf
        self._seconds, self._updates = 0.0, 0  # of the window
        self._is_warm = self._is_reported = False

    def add(self, seconds: float) -> str:
        """Add an update's seconds; return a line to report, or an empty one."""
        self._seconds, self._updates = self._seconds + seconds, self._updates + 1
        if self._seconds < _WINDOW_SECONDS:
            return ""
        mean, self._seconds, self._updates = self._seconds / self._updates, 0.0, 0
        is_warm, self._is_warm = self._is_warm, True  # the first window may include compiling
        if self._is_reported or mean < SLOW * self._best or not is_warm:
            self._best = min(self._best, mean)
            return ""
        self._is_reported = True
        advice = "; stop and resume with --threads 0, which measures again" if self._count > 1 else ""
        slower = f"an update takes {1000 * mean:,.0f} ms, {mean / self._best:.1f} times as long as before"
        return f"{slower}: the machine is overloaded ({current_load()}){advice}"
