"""How a run is told to end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(Exception):
    """The run is to end; what was begun is left for the run that goes on."""


@contextmanager
def handled(handler: Callable[[int, Any], None], *numbers: signal.Signals) -> Iterator[None]:
    """Inside, these signals call `handler`; afterwards what they called before.

    A SIGHUP that is ignored stays so: that is how nohup keeps what it starts from ending with its terminal.
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
    """SIGTERM, SIGHUP and Ctrl-C call `stop` with their name; a second Ctrl-C interrupts at once."""

    def handler(number: int, _: Any) -> None:
        stop(signal.Signals(number).name)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with handled(handler, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        yield


@contextmanager
def silent_writers() -> Iterator[None]:
    """TensorBoard's thread hands an OSError to its caller, who tells it in one line: its traceback is not shown too."""
    usual = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, OSError):
            usual(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = usual
