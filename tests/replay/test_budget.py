"""check_budget against made-up /proc and /sys trees."""

import shutil
from pathlib import Path

import pytest

from replay import EpisodeStore, ReplayBudgetError, check_budget
from replay.budget import available_disk, available_memory
from tests.replay.replay_rows import make_episode

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": f"MemTotal: {32 * 2**20} kB\nMemAvailable: {16 * 2**20} kB\n"}


def test_the_machines_free_memory(tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, MACHINE)) == 16 * GIB


@pytest.mark.parametrize("group", ["/", "/user/job", "/not/mounted/here"])
def test_cgroup_v2(tmp_path: Path, group: str) -> None:
    root = write(tmp_path, MACHINE | {"proc/self/cgroup": f"0::{group}\n"})
    stat = f"anon 5\ninactive_file {GIB}\nactive_file 7\n"
    top = {"memory.max": f"{8 * GIB}\n", "memory.current": f"{3 * GIB}\n", "memory.stat": stat}
    write(root, {f"sys/fs/cgroup/{name}": text for name, text in top.items()})
    assert available_memory(root) == 6 * GIB


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    root = write(tmp_path, MACHINE | {"proc/self/cgroup": "0::/user/job\n"})
    for place, limit in {"": "max", "user/": str(4 * GIB), "user/job/": "max"}.items():
        files = {"memory.max": limit, "memory.current": str(GIB), "memory.stat": "inactive_file 0\n"}
        write(root, {f"sys/fs/cgroup/{place}{name}": text for name, text in files.items()})
    assert available_memory(root) == 3 * GIB


def test_cgroup_v1(tmp_path: Path) -> None:
    root = write(tmp_path, MACHINE | {"proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n"})
    files = {
        "memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory.usage_in_bytes": f"{GIB}\n",
        "memory.stat": f"total_inactive_file {GIB // 2}\n",
    }
    write(root, {f"sys/fs/cgroup/memory/job/{name}": text for name, text in files.items()})
    assert available_memory(root) == GIB + GIB // 2


def test_without_proc_it_is_the_machines_memory(tmp_path: Path) -> None:
    assert available_memory(tmp_path) > 2**26


def test_this_machine_has_some() -> None:
    assert 2**26 < available_memory() < 2**50


def test_memory_error_names_the_key_and_a_value_that_fits(tmp_path: Path) -> None:
    root = write(tmp_path, MACHINE)
    check_budget(16 * GIB, root=root)
    with pytest.raises(ReplayBudgetError) as caught:
        check_budget(20 * GIB, memory_key="replay.capacity_bytes", root=root)
    message = str(caught.value)
    assert message == (
        "replay needs 21.47 GB of memory, 17.18 GB are available: set replay.capacity_bytes to 17179869184 or less"
    )
    check_budget(int(message.split()[-3]), root=root)
    with pytest.raises(ValueError, match="set capacity_steps to 17179869 or less"):
        check_budget(20 * GIB, memory_key="capacity_steps", unit_bytes=1000, root=root)


def test_disk(tmp_path: Path) -> None:
    root = write(tmp_path / "root", MACHINE)
    folder = tmp_path / "runs" / "demo" / "episodes"  # does not exist yet
    check_budget(1000, folder, root=root)
    assert not folder.exists()
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ReplayBudgetError, match=r"of disk in .*: set replay\.disk_bytes to \d+ or less$"):
        check_budget(1000, folder, disk_bytes=2 * free + GIB, disk_key="replay.disk_bytes", root=root)


def test_episodes_already_there_are_part_of_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EpisodeStore(tmp_path)
    store.append(make_episode(50))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert available_disk(tmp_path) == 1000 + store.num_bytes
