"""How a run is told to end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Stopped(Exception):
    """The run is to end; what was begun is left for the run that goes on."""


class Stoppable(Protocol):
    """What ends soon after `stop_reason` is no longer empty."""

    stop_reason: str


@contextmanager
def stop_signals(trainer: Stoppable) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run after the current update; a second Ctrl-C interrupts at once."""

    def stop(number: int, _: Any) -> None:
        trainer.stop_reason = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
