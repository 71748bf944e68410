"""Runs of a sweep that train nothing: little Python scripts that count in a file, as far as they are let."""

import time
from collections.abc import Callable
from pathlib import Path

from agent.sweep.scheduler import Progress

# Counts on from the number in the file, a line each, up to `goal`; SIGTERM ends it at once, as if with a checkpoint.
COUNT = """
import os, sys, time
path, goal, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
print("cores", sorted(os.sched_getaffinity(0)), "gpu", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
done = len(open(path).readlines()) if os.path.exists(path) else 0
for number in range(done + 1, goal + 1):
    print(number, os.getpid(), file=open(path, "a"))
    time.sleep(pause)
"""


class Counting:
    """A run that counts to `goal`, or a script of its own in place of that."""

    budget = 3

    def __init__(self, name: str, folder: Path, script: str = COUNT, goal: int = 3, pause: float = 0.0) -> None:
        self.name, self.goal, self.budget = name, goal, goal
        self.path, self.log = folder / f"{name}.count", folder / "logs" / name
        self.progress = Progress()
        self._script, self._pause = script, pause

    def command(self, threads: int | None) -> list[str]:
        return ["-S", "-c", self._script, str(self.path), str(self.goal), str(self._pause)]

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.is_file() else []

    def look(self) -> None:
        self.progress = Progress(len(self.lines()))

    def is_finished(self) -> bool:
        return len(self.lines()) >= self.goal

    def holder(self) -> str:
        return ""


def wait(condition: Callable[[], object]) -> None:
    """Wait until something is so, for 100 s at most."""
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
