"""A Python command in a process of its own, which is asked to stop by SIGTERM and ends with this process."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from envs.wording import describe_exit

ROOT = Path(__file__).resolve().parents[2]  # where our packages are
PROGRAM = ROOT / "run_agent.py"
_LAUNCH = Path(__file__).with_name("launch.py")


class Child:
    """A running Python command. Its output is appended to the files `log`.out and `log`.err.

    It has a session of its own, so that Ctrl-C at the terminal reaches it only through `stop`.

    Args:
        command: arguments of Python, ["run_agent.py", "train", ...].
        log: path of the two files, without their suffix.
        cores: numbers of the CPU cores that it may use; none means all.
        variables: environment variables to set.
    """

    state = "running"

    def __init__(
        self, command: Sequence[str], log: Path, cores: Sequence[int] = (), variables: Mapping[str, str] | None = None
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._errors = log.with_name(f"{log.name}.err")
        start = [sys.executable, "-I", str(_LAUNCH), str(os.getpid()), ",".join(map(str, cores))]
        with open(log.with_name(f"{log.name}.out"), "ab") as out, open(self._errors, "ab") as err:
            self._begun = err.tell()  # what earlier attempts have written is not this one's error
            self._process = subprocess.Popen(
                [*start, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | dict(variables or {}),
                start_new_session=True,
            )

    def poll(self) -> str | None:
        """Return None while it runs, then "" if its exit status is 0, else why it ended, in one line."""
        status = self._process.poll()
        if status is None or status == 0:
            return None if status is None else ""
        with open(self._errors, "rb") as file:
            file.seek(self._begun)
            return describe_exit(status, file.read().decode(errors="replace"))

    def stop(self) -> None:
        """Ask it to end soon."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self, pause: Callable[[float], None] = time.sleep) -> str:
        """Wait for the end and return what `poll` then returns; signal handlers that call `stop` run in between."""
        while (said := self.poll()) is None:
            pause(0.2)
        return said

    def outlast(self) -> None:
        """Wait for the end inside a signal handler, where `poll` may have been interrupted."""
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
