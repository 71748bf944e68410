"""Processes of a run: descendants, memory and open files. One that has ended has none."""

from contextlib import suppress

import psutil


def descendants(pid: int) -> list[int]:
    """Return the children of a process, their children, and so on, without those that have ended."""
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True) if is_running(child.pid)]
    return []


def workers(pid: int) -> list[int]:
    """Return the environment workers of a trainer: the children of its children."""
    found: list[int] = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with suppress(psutil.NoSuchProcess):
                found += [grandchild.pid for grandchild in child.children() if is_running(grandchild.pid)]
    return found


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


def resident_mb(pid: int) -> float:
    """Return the memory that a process holds in MiB, 0 where it has ended."""
    with suppress(psutil.NoSuchProcess):
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    return 0.0


def num_handles(pid: int) -> int:
    """Return the number of files, pipes and sockets that a process has open, 0 where it has ended."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(psutil.Process(pid).num_fds())
    return 0
