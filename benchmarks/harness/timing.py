"""How a benchmark takes time: works that take turns, and a clock that a busy machine does not disturb."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import TypeVar

import torch

Name = TypeVar("Name")
Meter = Callable[[], float]  # only ever rises: a clock, or FLOPs so far


def alternate(
    works: Mapping[Name, Callable[[], object]], repeats: int, now: Meter = time.perf_counter
) -> dict[Name, float]:
    """Median cost of one call of each work, over `repeats` rounds in which each is called once; one more warms up.

    Whatever else the machine does falls on all of them alike: who goes first moves on from round to round. The cost is
    what `now` rises by, seconds by default.
    """
    names = list(works)
    costs: dict[Name, list[float]] = {name: [] for name in names}
    for round_number in range(repeats + 1):
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            start = now()
            works[name]()
            if round_number > 0:
                costs[name].append(now() - start)
    return {name: median(values) for name, values in costs.items()}


def uses_processor_time(device: torch.device, threads: int) -> bool:
    """Whether `clock` counts the time of this process alone; that of several threads would be their sum."""
    return device.type == "cpu" and threads == 1


def clock(device: torch.device, threads: int) -> Meter:
    """Milliseconds: of the processor for one thread on a CPU, so that a busy machine counts for little; else wall.

    A device's own work is included: parts wait for it, so on a GPU they do not overlap.
    """
    seconds = time.process_time if uses_processor_time(device, threads) else time.perf_counter

    def read() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * seconds()

    return read
