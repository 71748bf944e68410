"""Runs as tasks of a Ray cluster. The nodes share this machine's file system and Python."""

import logging
import os
import socket
from pathlib import Path
from typing import Any

from agent.sweep.child import ROOT, Child
from agent.sweep.extras import check_extra
from envs.wording import describe_error, one_line

_SECONDS = 5.0  # to reach the head


def _carry_out(command: list[str], log: Path) -> str:
    """Run a Python command on its node; return "" or why it failed. Ray cancels it by a KeyboardInterrupt."""
    child = Child(command, log)
    try:
        return child.wait()
    except BaseException:
        child.stop()
        child.wait()
        raise


class RayTask:
    """A run that was given to Ray.

    Args:
        ray: the module.
        result: Ray's reference to what the task will return.
    """

    state = "submitted"

    def __init__(self, ray: Any, result: Any) -> None:
        self._ray, self._result = ray, result

    def poll(self) -> str | None:
        """Return None until the task has ended, then "", or in one line why it failed."""
        if not self._ray.wait([self._result], timeout=0)[0]:
            return None
        try:
            return str(self._ray.get(self._result))
        except Exception as error:  # a lost node, a cancelled task, whatever was raised there
            return describe_error(error)

    def stop(self) -> None:
        """Cancel the task, which stops the run politely."""
        self._ray.cancel(self._result)


class RayPool:
    """The Ray cluster that this process is connected to (`connect`).

    Args:
        ray: the module.
        most: tasks at once, running or waiting for resources.
        threads: CPU threads of a run, and CPUs that it takes.
        needs_gpu: whether a run takes a GPU.
    """

    def __init__(self, ray: Any, most: int, threads: int, needs_gpu: bool) -> None:
        self.most, self._ray, self._threads = most, ray, threads
        self._task = ray.remote(num_cpus=threads, num_gpus=int(needs_gpu), max_retries=0)(_carry_out)

    def start(self, work: Any) -> RayTask:
        """Give a run to the cluster."""
        task = self._task.options(name=work.name)
        return RayTask(self._ray, task.remote(work.command(self._threads), work.log))


def connect(address: str | None) -> Any:
    """Connect to the Ray cluster at `address` (None: RAY_ADDRESS, else the one on this machine); return the module.

    ValueError in one line, within seconds, if Ray is missing or no cluster answers.
    """
    check_extra("ray")
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if address != "auto":
        _check_head(address)
    import ray

    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
        )
    except Exception as error:  # of many types
        started = "expected a cluster, such as the one that `ray start --head` begins"
        raise ValueError(f"ray: got '{address}', {started} ({one_line(error, 150)})") from None
    return ray


def _check_head(address: str) -> None:
    """Raise a one-line ValueError unless something listens at the address: Ray itself waits for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"ray: got '{address}', expected an address like 10.0.0.1:6379 or ray://10.0.0.1:10001")
    try:
        socket.create_connection((host, int(port)), _SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"ray: got '{address}', where no Ray head answers ({one_line(error)})") from None
