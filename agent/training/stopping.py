"""Signals and exceptions that stop a run."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """The run should end; unfinished work is left for the resumed run."""


@contextmanager
def handled(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Handle these signals with `handler` inside the block, and restore their handlers after it.

    An ignored SIGHUP stays ignored, because nohup relies on that.
    """
    shielded = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    previous = {number: signal.signal(number, handler) for number in numbers if number not in shielded}
    try:
        yield
    finally:
        for number, usual in previous.items():
            signal.signal(number, usual)


@contextmanager
def stop_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` with the signal's name on SIGTERM, SIGHUP and Ctrl-C; a second Ctrl-C interrupts at once."""

    def handler(number: int, _: Any) -> None:
        stop(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with handled(handler, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        yield


@contextmanager
def silent_writers() -> Iterator[None]:
    """Hide tracebacks of OSErrors in threads: TensorBoard's writer passes them to its caller, which reports them."""
    usual = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, OSError):
            usual(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = usual
