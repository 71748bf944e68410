"""The screen: standard output and error, whose loss ends no command and no run. Importing this costs nothing."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)  # a log's disk may have room again, a slow terminal catches up


class Screen:
    """A text stream that never fails: what it cannot show is left out.

    Pipes whose reader has gone and terminals that were closed are lost for good: their descriptor leads to nowhere from
    then on, for child processes too. Everything but writing is the wrapped stream's.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Show the text where that is possible; characters that the stream's encoding lacks are spelled out."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError) as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Bring what was written onto the screen where that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def finish(self) -> None:
        """The last flush: the interpreter's own, which is not of this class, finds nothing that could fail."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._lead_nowhere()

    def _lose(self, error: OSError | ValueError) -> None:
        if getattr(error, "errno", None) not in _PASSING:
            self._lead_nowhere()

    def _lead_nowhere(self) -> None:
        with suppress(OSError, ValueError):  # a stream without a descriptor, or one that was closed
            _redirect(self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lasting_screen() -> Iterator[None]:
    """Inside, standard output and error are Screens."""
    before = sys.stdout, sys.stderr
    if isinstance(before[0], Screen):  # a run inside of a command
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
    """Make standard output and error Screens for good: for a worker process, whose environment may print."""
    sys.stdout, sys.stderr = _screen(sys.stdout, 1), _screen(sys.stderr, 2)


def _screen(stream: TextIO | None, descriptor: int) -> Screen:
    """A Screen for a stream, or for one that was closed when Python started, which has None in its place."""
    if stream is not None:
        return Screen(stream)
    try:
        os.fstat(descriptor)
    except OSError:  # the next file that is opened would get its number, and what libraries print
        _redirect(descriptor)
    return Screen(open(os.devnull, "w", encoding="utf-8"))


def _redirect(descriptor: int) -> None:
    """Let a descriptor lead to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
