"""A run of a sweep: the command that trains it, and what its folder says about its progress."""

import os
from collections.abc import Mapping
from pathlib import Path

from agent.config.settings import Config
from agent.run_folder.checkpoint import checkpoint_paths
from agent.run_folder.load import load_run
from agent.run_folder.lock import RunLock
from agent.run_folder.logger import parse_rows
from agent.sweep.child import PROGRAM
from agent.sweep.scheduler import Progress
from agent.training.due_work import is_over


class TrainingRun:
    """A training run of a sweep, in <folder>/runs/<name>; its output is appended to <folder>/logs/<name>.out and .err.

    Args:
        name: name of the run, and of its folder.
        config: all of its settings.
        settings: key -> text of those that differ from the preset's, for the command line.
        folder: the folder of the sweep.
    """

    def __init__(self, name: str, config: Config, settings: Mapping[str, str], folder: Path) -> None:
        self.name, self.config = name, config
        self.logdir, self.log = folder / "runs" / name, folder.absolute() / "logs" / name
        self.progress = Progress()
        self._settings, self._metrics = settings, MetricsTail(self.logdir / "metrics.jsonl")

    @property
    def budget(self) -> int:
        """The env_frames at which the run ends."""
        return self.config.env_frames

    def command(self, threads: int | None) -> list[str]:
        """Return the Python command that starts or resumes the run; None leaves the threads to the run."""
        options: dict[str, object] = {"logdir": self.logdir.absolute(), "task": self.config.task}
        # The budget is always named, since a resumed run keeps its own.
        options |= {"preset": self.config.preset, "seed": self.config.seed, "env_frames": self.budget}
        options |= {} if threads is None else {"threads": threads}
        options |= self._settings
        return [str(PROGRAM), "train", *(f"--{key}={value}" for key, value in options.items())]

    def look(self) -> None:
        """Bring `progress` up to date."""
        self.progress = self._metrics.read()

    def is_finished(self) -> bool:
        """Return whether the newest good checkpoint is the last one of the run."""
        if not checkpoint_paths(self.logdir / "checkpoints"):
            return False
        try:
            return is_over(load_run(self.logdir), self.config)
        except (ValueError, OSError):  # damaged; `train` says so
            return False

    def holder(self) -> str:
        """Return in one line which process is using the run's folder, "" if it is free."""
        if not self.logdir.is_dir():
            return ""
        lock = RunLock(self.logdir)
        try:
            lock.acquire()
        except ValueError as error:
            return str(error)
        lock.release()
        return ""


class MetricsTail:
    """A metrics.jsonl that is read as it grows, and again from its start once it was replaced (at a resume)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin(-1)

    def _begin(self, inode: int) -> None:
        self._inode, self._place, self._progress = inode, 0, Progress()

    def read(self) -> Progress:
        """Return the progress that the complete lines tell."""
        try:
            file = open(self._path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return Progress()
        with file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._place:
                self._begin(found.st_ino)
            file.seek(self._place)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._place += len(whole)
        for row in parse_rows(whole.decode(errors="replace").splitlines()):
            at = row["env_frames"]
            self._progress = self._progress._replace(env_frames=at)
            if (score := row.get("eval_return")) is not None:
                self._progress = self._progress._replace(eval_return=score, evaluated_at=at)
        return self._progress
