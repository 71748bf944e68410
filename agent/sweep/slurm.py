"""Runs as jobs of a SLURM cluster, by submitit. The nodes share this machine's file system and Python."""

import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.config.files import parse_value
from agent.sweep.child import ROOT, Child
from agent.training.stopping import handled
from envs.packages import check_installed
from envs.wording import one_line

MINUTES = 240  # of a job; then it is requeued, and the run resumed
TIMEOUTS = 10_000  # after which a job is no longer requeued: as often as it takes


class Task:
    """What a job does, called by submitit on its node: it runs one Python command.

    Args:
        command: arguments of Python.
        log: path of its output, without suffix.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self._log = command, log
        self._child: Child | None = None

    def __call__(self) -> str:
        """Run the command; return "" or why it failed. SIGTERM and SIGINT are passed on to it as SIGTERM."""
        child = self._child = Child(self._command, self._log)
        with handled(lambda *_: child.stop(), signal.SIGTERM, signal.SIGINT):
            return child.wait()

    def checkpoint(self) -> Any:
        """Stop the command and return what to submit again; submitit calls it at the time limit and at preemption."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            self._child.stop()
            self._child.outlast()
        return DelayedSubmission(Task(self._command, self._log))


class Job:
    """A run that was submitted.

    Args:
        job: submitit's job.
    """

    def __init__(self, job: Any) -> None:
        self._job, self._is_asked = job, False

    @property
    def state(self) -> str:
        """SLURM's word for it, such as "pending"."""
        return str(self._job.state).lower()

    def poll(self) -> str | None:
        """Return None until the job has ended, then "", or in one line why it failed."""
        if not self._job.done(force_check=self._is_asked):  # a cancelled job that had not begun leaves no result
            return None
        if not self._job.paths.result_pickle.exists():
            return f"its job {self._job.job_id} ended without a result, as {self.state}"
        try:
            return str(self._job.result())
        except Exception as error:  # whatever was raised on the node
            return one_line(str(error).strip().splitlines()[-1])

    def stop(self) -> None:
        """Cancel the job, which passes SIGTERM on to the run."""
        self._is_asked = True
        self._job.cancel(check=False)


class SubmititPool:
    """Jobs of a submitit executor, one per run. A job that an earlier call has submitted is followed, not repeated.

    Args:
        make_executor: returns an executor for a folder, which holds a run's job files, and a job's name.
        folder: folder of these folders.
        most: jobs at once, running or in the queue.
        threads: CPU threads of a run; None leaves the choice to the run.
    """

    def __init__(self, make_executor: Callable[[Path, str], Any], folder: Path, most: int, threads: int | None) -> None:
        self.most = most
        self._make_executor, self._folder, self._threads = make_executor, folder.absolute(), threads

    def start(self, work: Any) -> Job:
        """Submit a run. RuntimeError if the cluster refuses it."""
        folder = self._folder / work.name
        executor = self._make_executor(folder, work.name)
        submitted = sorted(folder.glob("*_submitted.pkl"), key=lambda path: path.stat().st_mtime)
        if submitted:
            job = executor.job_class(folder, submitted[-1].name.removesuffix("_submitted.pkl"))
            if not job.done(force_check=True):
                return Job(job)
        return Job(executor.submit(Task(work.command(self._threads), work.log)))


def slurm_executor(parameters: Mapping[str, Any], threads: int | None, needs_gpu: bool) -> Callable[[Path, str], Any]:
    """Return a maker of SLURM executors for `SubmititPool`, with submitit's `parameters` (partition, time, mem, ...).

    Nothing is written. ValueError in one line if submitit or SLURM is missing, or a parameter unknown.
    """
    check_installed("submitit", "on")
    for program in ("sbatch", "srun", "sacct", "scancel"):
        if shutil.which(program) is None:
            raise ValueError(f"on: got slurm, but no {program} on the PATH, expected a machine that submits to SLURM")
    from submitit import SlurmExecutor

    ours: dict[str, Any] = {"time": MINUTES, "stderr_to_stdout": True, "setup": [f"export PYTHONPATH={ROOT}"]}
    ours |= {} if threads is None else {"cpus_per_task": threads}
    ours |= {"gpus_per_node": 1} if needs_gpu else {}

    def make(folder: Path, name: str) -> Any:
        executor = SlurmExecutor(folder, max_num_timeout=TIMEOUTS)
        executor.update_parameters(**(ours | {"job_name": name} | dict(parameters)))
        return executor

    try:
        make(Path(), "check")
    except (ValueError, TypeError) as error:
        raise ValueError(f"slurm: {one_line(error)}") from None
    return make


def parse_parameters(texts: list[str]) -> dict[str, Any]:
    """Return the values of "name=value" texts. A one-line ValueError if one is invalid."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value or name == "setup":
            raise ValueError(f"slurm: got '{text}', expected a parameter like partition=gpu")
        found[name] = parse_value(value, Any)
    if not isinstance(found.get("time", 1), int):
        raise ValueError(f"slurm: got time={found['time']}, expected a number of minutes")
    return found
