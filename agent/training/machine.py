"""The cores of this machine, and their load."""

import os
from typing import NamedTuple


class Load(NamedTuple):
    """The average number of programs ready to run in the last minute, and the number of cores."""

    programs: float
    cores: int

    def __str__(self) -> str:
        return f"load {self.programs:.1f} on {self.cores} cores in the last minute"


def current_load() -> Load:
    """Return the current load of the system."""
    return Load(os.getloadavg()[0], os.cpu_count() or 1)


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
