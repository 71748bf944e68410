"""How a run is told to end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Stopped(Exception):
    """The run is to end; what was begun is left for the run that goes on."""


class Stoppable(Protocol):
    """What ends soon after `stop_reason` is no longer empty."""

    stop_reason: str


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
def stop_signals(trainer: Stoppable) -> Iterator[None]:
    """SIGTERM, SIGHUP and Ctrl-C end the run after the current update; a second Ctrl-C interrupts at once."""

    def stop(number: int, _: Any) -> None:
        trainer.stop_reason = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with handled(stop, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
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
