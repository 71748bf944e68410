"""Runs as processes on this machine, each with cores, and a GPU if there are any, of its own."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from agent.sweep.child import Child


class Slot(NamedTuple):
    """The room for one run: CPU cores by number, and the name of a GPU in CUDA_VISIBLE_DEVICES (None: no GPU)."""

    cores: tuple[int, ...]
    gpu: str | None


def slots(cores: Sequence[int], gpus: Sequence[str], jobs: int | None, threads: int | None) -> list[Slot]:
    """Return the rooms for `jobs` runs at once with `threads` cores each.

    By default there is one run per GPU, or without GPUs one per `threads` cores (one if that is not given either), and
    the cores are shared out evenly. More runs than there is room for share cores and GPUs in turn.
    """
    if jobs is None:
        jobs = len(gpus) or max(1, len(cores) // (threads or 1))
    if threads is None:
        threads = max(1, len(cores) // jobs)
    width = min(threads, len(cores))
    return [
        Slot(
            tuple(sorted(cores[(number * threads + place) % len(cores)] for place in range(width))),
            gpus[number % len(gpus)] if gpus else None,
        )
        for number in range(jobs)
    ]


def visible_gpus() -> list[str]:
    """Return the names of this machine's GPUs, as CUDA_VISIBLE_DEVICES has them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if named is None else named.split(",")[:count]


class LocalPool:
    """The rooms of this machine.

    Args:
        rooms: one for each run at once.
        threads: CPU threads of a run; None is the number of its cores.
    """

    def __init__(self, rooms: Sequence[Slot], threads: int | None = None) -> None:
        self.most, self._rooms, self._threads = len(rooms), rooms, threads
        self._tenants: list[Child | None] = [None] * len(rooms)

    def start(self, work: Any) -> Child:
        """Start a run in the first free room. OSError if the process cannot be made."""
        number = next(i for i, tenant in enumerate(self._tenants) if tenant is None or tenant.poll() is not None)
        room = self._rooms[number]
        threads = self._threads if self._threads is not None else len(room.cores)
        variables = {"OMP_NUM_THREADS": str(threads)}
        variables |= {} if room.gpu is None else {"CUDA_VISIBLE_DEVICES": room.gpu}
        child = Child(work.command(threads), work.log, room.cores, variables)
        self._tenants[number] = child
        return child
