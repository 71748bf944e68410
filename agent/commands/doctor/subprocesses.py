"""Probes: Python scripts in separate processes, which never outlive their time limit.

A probe prints JSON objects, one per line. It runs in its own process group, which is killed when its time is over; an
alarm in the probe itself ends it even if this process was killed.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from envs.wording import describe_exit

ROOT = Path(__file__).resolve().parents[3]
READY = "ready"
NO_ANSWER = "no answer"
NO_TIME = "not measured, no time left"


class Answer(NamedTuple):
    """A probe's printed objects, merged, and in one line why it failed (None if it did not)."""

    figures: dict[str, Any]
    failure: str | None


class Allowance:
    """The seconds that all probes together may take, handed out in shares. ValueError if not positive."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        if not 0 < seconds < math.inf:
            raise ValueError(f"seconds: got {seconds:g}, expected a positive number")
        self._clock, self._share, self._end = clock, seconds / 3, clock() + seconds

    def left(self) -> float:
        """Return the seconds until the end, 0 after it."""
        return max(0.0, self._end - self._clock())

    def share(self) -> float:
        """Return the seconds that one of several probes may take: a third of the total, or what is left."""
        return min(self._share, self.left())


def run_probe(script: str, seconds: float, **variables: str) -> Answer:
    """Run one probe for at most `seconds`, with `variables` in its environment."""
    return run_probes(script, seconds, 1, **variables)[0]


def run_probes(script: str, seconds: float, count: int, **variables: str) -> list[Answer]:
    """Run `count` copies of a probe in parallel for at most `seconds`; leave none of their processes.

    A copy that prints "ready" and then reads its standard input continues only once all copies are ready.
    """
    if seconds < 1:
        return [Answer({}, NO_TIME)] * count
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    command = [sys.executable, "-P", "-c", f"import signal; signal.alarm({math.ceil(seconds) + 2})\n{script}"]
    end = time.monotonic() + seconds
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        outputs = [(folder / f"{i}.out", folder / f"{i}.err") for i in range(count)]
        ends = os.pipe()  # nothing is ever written: end of file is the signal to continue
        waiting, go = stack.enter_context(open(ends[0], "rb")), stack.enter_context(open(ends[1], "wb"))
        processes: list[subprocess.Popen[bytes]] = []
        stack.callback(lambda: _kill(processes))
        for out, err in outputs:
            with open(out, "wb") as stdout, open(err, "wb") as stderr:
                # Files instead of pipes: a grandchild that keeps a pipe open would have to be waited for.
                processes.append(
                    subprocess.Popen(
                        command, stdin=waiting, stdout=stdout, stderr=stderr, env=environment, start_new_session=True
                    )
                )
        while time.monotonic() < end and any(
            process.poll() is None and READY not in out.read_text(encoding="utf-8", errors="replace").split()
            for process, (out, _) in zip(processes, outputs, strict=True)
        ):
            time.sleep(0.02)
        go.close()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        codes = [process.poll() for process in processes]
        _kill(processes)
        processes.clear()
        return [_answer(code, *files, seconds) for code, files in zip(codes, outputs, strict=True)]


def _kill(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Kill the process groups."""
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):  # the group has ended (macOS: only zombies are left)
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # a process stuck in a kernel driver never ends
            process.wait(5)


def _answer(code: int | None, out: Path, err: Path, seconds: float) -> Answer:
    figures: dict[str, Any] = {}
    for line in out.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            figures |= found if isinstance(found := json.loads(line), dict) else {}
    if code == 0:
        return Answer(figures, None)
    if code is None:
        return Answer(figures, f"{NO_ANSWER} in {seconds:.0f} s, killed")
    return Answer(figures, describe_exit(code, err.read_text(encoding="utf-8", errors="replace")))
