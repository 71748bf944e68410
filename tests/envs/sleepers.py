"""A probe that never ends, with a child, and whether the two are gone."""

import time
from pathlib import Path

# A process and its child, which both sleep for ever; their ids go to the file named in PIDS.
SLEEPERS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
with open(os.environ["PIDS"], "a") as file:
    print(os.getpid(), child.pid, file=file)
time.sleep(1000)
"""


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(path: Path, count: int) -> bool:
    """Whether the processes whose ids are in a file, `count` of them, end within seconds."""
    numbers = [int(number) for number in path.read_text().split()]
    assert len(numbers) == count
    deadline = time.monotonic() + 30
    while any(is_alive(number) for number in numbers) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(is_alive(number) for number in numbers)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not (path.is_file() and path.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
