"""Standard output and error that never fail, so that a closed terminal or full disk ends no command and no run."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)  # temporary: a full disk, a slow terminal


class Screen:
    """A text stream that never fails: text that it cannot write is dropped.

    Pipes without a reader and closed terminals are lost for good: their descriptor is redirected to os.devnull, for
    child processes too. Everything but writing is delegated to the wrapped stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text if possible; characters that the stream's encoding lacks are escaped."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError) as error:
            self._handle_failure(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream if possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._handle_failure(error)

    def finish(self) -> None:
        """Flush for the last time, so that the interpreter's own flush at exit cannot fail."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._redirect_to_null()

    def _handle_failure(self, error: OSError | ValueError) -> None:
        if getattr(error, "errno", None) not in _PASSING:
            self._redirect_to_null()

    def _redirect_to_null(self) -> None:
        with suppress(OSError, ValueError):  # a stream without a descriptor, or one that was closed
            _redirect(self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_screen() -> Iterator[None]:
    """Make standard output and error Screens inside the block."""
    before = sys.stdout, sys.stderr
    if isinstance(before[0], Screen):  # a run inside a command
        yield
        return
    screens = [_screen(stream, number) for number, stream in enumerate(before, start=1)]
    sys.stdout, sys.stderr = screens
    try:
        yield
    finally:
        for screen in screens:
            screen.finish()
        sys.stdout, sys.stderr = before


def outlast_screen() -> None:
    """Make standard output and error Screens for good, in a worker process whose environment may print."""
    sys.stdout, sys.stderr = _screen(sys.stdout, 1), _screen(sys.stderr, 2)


def _screen(stream: TextIO | None, descriptor: int) -> Screen:
    """Return a Screen for a stream; None stands for a stream that was closed when Python started."""
    if stream is not None:
        return Screen(stream)
    try:
        os.fstat(descriptor)
    except OSError:  # otherwise the next opened file would get this number, and the output of libraries
        _redirect(descriptor)
    return Screen(open(os.devnull, "w", encoding="utf-8"))


def _redirect(descriptor: int) -> None:
    """Redirect a descriptor to os.devnull."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
