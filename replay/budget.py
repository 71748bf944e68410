"""Checks, before the first frame, that a replay buffer fits into memory and on disk."""

import os
import shutil
from pathlib import Path


class ReplayBudgetError(ValueError):
    """The replay capacity does not fit into memory or on the disk."""


def check_budget(
    needed_bytes: int,
    folder: Path | str | None = None,
    disk_bytes: int | None = None,
    memory_key: str = "capacity_bytes",
    disk_key: str = "capacity_bytes",
    unit_bytes: int = 1,
    root: Path | str = "/",
) -> None:
    """Raise ReplayBudgetError, in one line with the key to change and a value that fits, if the replay does not fit.

    `needed_bytes` of memory are compared with what this process may still take. With a `folder`, `disk_bytes` (by
    default as much as in memory, since noise does not compress) are compared with free space plus the episodes already
    there. `unit_bytes` is the size of one unit of the keys: `row_bytes(...)` if they count rows. `root` contains /proc
    and /sys.
    """
    available = available_memory(root)
    if needed_bytes > available:
        raise ReplayBudgetError(_message("memory", needed_bytes, available // unit_bytes, memory_key, available))
    if folder is None:
        return
    needed_disk = needed_bytes if disk_bytes is None else disk_bytes
    usable = available_disk(Path(folder))
    if needed_disk > usable:
        raise ReplayBudgetError(_message(f"disk in {folder}", needed_disk, usable // unit_bytes, disk_key, usable))


def available_memory(root: Path | str = "/") -> int:
    """Return the bytes that this process may still take: the minimum over free memory and cgroup limits (v1 and v2)."""
    root = Path(root)
    limits = [_machine_memory(root), *_cgroup_memory(root)]
    return max(0, min(limits))


def available_disk(folder: Path) -> int:
    """Return the free bytes on the disk of `folder` (which may not exist yet) plus those of the episodes in it."""
    episodes = sum(path.stat().st_size for path in folder.glob("*.ep")) if folder.is_dir() else 0
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free + episodes


def _message(what: str, needed: int, fitting: int, key: str, available: int) -> str:
    needs = f"replay needs {_readable(needed)} of {what}, {_readable(available)} are available"
    return f"{needs}: set {key} to {fitting} or less"


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e7 else f"{num_bytes} bytes"


def _machine_memory(root: Path) -> int:
    meminfo = root / "proc/meminfo"
    if meminfo.exists():
        for line in meminfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # not Linux: all memory


def _cgroup_memory(root: Path) -> list[int]:
    """Return what each memory cgroup of this process leaves; page cache that can be dropped counts as free."""
    membership = root / "proc/self/cgroup"
    if not membership.exists():
        return []
    left = []
    for line in membership.read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            mount, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            usage, cache = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        folder = mount / group.strip("/")
        for place in [folder, *folder.parents]:
            if not place.is_relative_to(mount):
                break
            left += _cgroup_left(place, limit, usage, cache)
    return left


def _cgroup_left(folder: Path, limit: str, usage: str, cache: str) -> list[int]:
    try:
        most, used = (
            (folder / limit).read_text(encoding="utf-8").strip(),
            int((folder / usage).read_text(encoding="utf-8")),
        )
        stat = dict(line.split()[:2] for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
    except OSError:  # no such group in this container, or no limit
        return []
    return [] if most == "max" else [int(most) - used + int(stat.get(cache, 0))]
