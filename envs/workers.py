"""Worker processes of a vector environment: starting them, finding failed ones, and closing them without hanging."""

import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv
from gymnasium.vector.async_vector_env import _async_worker

from envs.wording import describe_error

logger = logging.getLogger(__name__)

GROUP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_CLOSE_SECONDS = 5.0
_DEATH_SECONDS = 1.0  # between the end of a worker's pipe and the end of its process


def make_workers(makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> AsyncVectorEnv:
    """Make each environment in its own process; an error while one is made is raised here."""
    _start_server()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*ERROR: ")  # gymnasium repeats the error as a warning
        return AsyncVectorEnv(
            makers, context="forkserver", shared_memory=True, autoreset_mode=AutoresetMode.NEXT_STEP, worker=_work
        )


def _start_server() -> None:
    """Start the process that forks workers, if there is none, with SIGTERM and SIGHUP blocked.

    torchrun sends them to all processes of a run at once. Only the parent handles them; without this process it would
    take its workers for dead.
    """
    resource_tracker.ensure_running()  # changes the mask of signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stand_apart() -> None:
    """Let this worker have a process group of its own: signals to its parent's do not reach it, one to itself does."""
    os.setpgrp()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)


def _work(index: int, make: Callable[[], gymnasium.Env[Any, Any]], pipe: Connection, *rest: Any) -> None:
    """Run gymnasium's worker, but pass an error of `make` to the parent instead of ending with a traceback."""
    try:
        env = make()
    except (Exception, SystemExit) as error:
        pipe.recv()  # the request for the spaces
        errors = rest[2]
        errors.put((index, ValueError, str(error), ""))
        pipe.send((None, False))
        return
    _async_worker(index, lambda: env, pipe, *rest)


def end_with_parent() -> None:
    """Make this worker end soon after the process that started it, however that ends, even in the middle of a step."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_and_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def lost_workers(workers: AsyncVectorEnv | None) -> list[int]:
    """Return the workers that are dead, have raised or have not answered, after a failed step.

    The list is empty without workers.
    """
    if workers is None:
        return []
    raised = [i for i, pipe in enumerate(workers.parent_pipes) if pipe is None]  # set by gymnasium
    if raised:
        return raised
    wait([process.sentinel for process in workers.processes], _DEATH_SECONDS)
    dead = [i for i, process in enumerate(workers.processes) if not process.is_alive()]
    return dead or [i for i, pipe in enumerate(workers.parent_pipes) if not _has_answered(pipe)]


def _has_answered(pipe: object) -> bool:
    try:
        return bool(pipe.poll(0))  # type: ignore[attr-defined]
    except (OSError, EOFError):
        return False


class Closable(Protocol):
    """An environment, or several, of gymnasium or of Stable-Baselines3."""

    def close(self) -> None:
        """Release its resources."""


def close_env(env: Closable) -> None:
    """Close an environment; a failure is only a one-line warning, since its episodes are still valid."""
    try:
        env.close()
    except Exception as error:
        logger.warning("closing an environment failed (%s)", describe_error(error))


def close_vector_env(vector_env: VectorEnv) -> None:
    """Close environments and kill workers that have not ended after five seconds. A second call does nothing."""
    if vector_env.closed:
        return
    if not isinstance(vector_env, AsyncVectorEnv):
        close_env(vector_env)
        vector_env.closed = True
        return
    # gymnasium's own close() waits for every worker without limit, and fails if one has died.
    for pipe in vector_env.parent_pipes:
        with suppress(OSError, AttributeError):
            pipe.send(("close", None))
    deadline = time.monotonic() + _CLOSE_SECONDS
    for process in vector_env.processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    for pipe in vector_env.parent_pipes:
        with suppress(OSError, AttributeError):
            pipe.close()
    vector_env.closed = True
