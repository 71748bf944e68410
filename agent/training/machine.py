"""The cores of this machine, and how busy they are."""

import os
from typing import NamedTuple


class Load(NamedTuple):
    """Programs that wanted to run in the last minute, on average, and the cores there are for them."""

    programs: float
    cores: int

    def __str__(self) -> str:
        return f"load {self.programs:.1f} on {self.cores} cores in the last minute"


def current_load() -> Load:
    """What the system says now."""
    return Load(os.getloadavg()[0], os.cpu_count() or 1)


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
