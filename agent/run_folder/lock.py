"""The lock that allows one process at a time in a run's folder."""

import contextlib
import json
import os
import socket
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system, where runs are not locked
    fcntl = None  # type: ignore[assignment]


class RunLock:
    """The lock on a run's folder, held through the file `lock` from `acquire` to `release`.

    It is the system's (flock) and ends with the process, so it is never stale. The file names the process that holds
    it, for the error of another one.
    """

    def __init__(self, logdir: Path) -> None:
        self._path = logdir / "lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, creating the folder if needed. ValueError if another process holds it."""
        if self._descriptor is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                got = f"got '{self._path.parent}', which {self._holder()} is using"
                raise ValueError(f"logdir: {got}, expected a free folder") from None
            except OSError:  # a file system without locks
                pass
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def _holder(self) -> str:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return f"process {int(found['pid'])} on {str(found['host'])[:100]}"
        return "another process"
