"""Runs as tasks of a Ray cluster. The nodes share this machine's file system and Python."""

from pathlib import Path
from typing import Any

from agent.sweep.child import Child
from envs.wording import describe_error


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
    """The Ray cluster that this process is connected to (`agent.training.ray_connection`).

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
