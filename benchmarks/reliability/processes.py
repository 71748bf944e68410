"""What Linux tells of processes, through /proc: their children, memory and open files."""

import os
from pathlib import Path

_PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on; those that have ended and wait for their parent left out."""
    parents: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            state, parent = _status(int(entry.name))
            if state != "Z":
                parents.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def workers(pid: int) -> list[int]:
    """Environment workers of a trainer: the children of its children."""
    below = descendants(pid)
    direct = [child for child in below if _status(child)[1] == pid]
    return [child for child in below if _status(child)[1] in direct]


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    return _status(pid)[0] not in ("", "Z", "X")


def resident_mb(pid: int) -> float:
    """Memory that a process holds, MiB; 0 where it has ended."""
    try:
        pages = int((_PROC / str(pid) / "statm").read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def num_handles(pid: int) -> int:
    """Files, pipes and sockets that a process has open; 0 where it has ended."""
    try:
        return len(os.listdir(_PROC / str(pid) / "fd"))
    except OSError:
        return 0


def _status(pid: int) -> tuple[str, int]:
    """State letter and parent; an empty letter where there is no such process."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])
