"""The scheduler of a sweep: starts runs where there is room, resumes those that end early, and stops them politely."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from envs.wording import describe_error


class State(StrEnum):
    """What a run of a sweep is doing."""

    WAITING = "waiting"
    IN_USE = "in use"  # by a process that is not ours; it is started when that ends
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


class Progress(NamedTuple):
    """How far a run has come, and its newest evaluation: the mean return, and the env_frames where it was made."""

    env_frames: int = 0
    eval_return: float | None = None
    evaluated_at: int = 0


class Work(Protocol):
    """A run, as the scheduler sees it: it goes on from where it was whenever it is started."""

    name: str
    progress: Progress  # at the last `look`

    def look(self) -> None:
        """Bring `progress` up to date."""

    def is_finished(self) -> bool:
        """Return whether nothing is left to do."""

    def holder(self) -> str:
        """Return in one line which process is using the run's folder, "" if it is free."""


class Attempt(Protocol):
    """A run that was started."""

    @property
    def state(self) -> str:
        """What it is doing, in a word."""

    def poll(self) -> str | None:
        """Return None until it has ended, then "", or in one line why it failed."""

    def stop(self) -> None:
        """Ask it to write a checkpoint and end soon."""


class Pool(Protocol):
    """A place where runs are carried out, at most `most` at once."""

    most: int

    def start(self, work: Any) -> Attempt:
        """Start a run. OSError or RuntimeError if that is not possible."""


@dataclass
class Entry:
    """A run in the scheduler: its state, and why it last ended early."""

    work: Any
    state: State = State.WAITING
    why: str = ""
    attempt: Attempt | None = None
    failures: int = 0  # early ends in a row without progress
    furthest: int = 0  # most env_frames at the end of an attempt

    @property
    def doing(self) -> str:
        """The state in a word, as the pool calls it while the run is going on."""
        return self.attempt.state if self.attempt is not None else self.state.value


class Scheduler:
    """Carries out runs in a pool until all have finished or failed, or until `stop`.

    A run that ends before its last checkpoint, for whatever reason, is resumed after the others that wait. After
    `retries` such ends in a row that brought no new env_frames, the next one makes it a failed run.

    Args:
        works: the runs.
        pool: where they are carried out.
        retries: see above.
        tell: gets a line for every change that a user wants to know of.
    """

    def __init__(self, works: Iterable[Work], pool: Pool, retries: int, tell: Callable[[str], None]) -> None:
        self.entries = [Entry(work) for work in works]
        self.stop_reason = ""
        self._pool, self._retries, self._tell = pool, retries, tell
        self._waiting: deque[Entry] = deque()
        self._is_asked = False
        for entry in self.entries:
            entry.work.look()
            entry.furthest = entry.work.progress.env_frames
            if entry.work.is_finished():
                entry.state = State.FINISHED
            else:
                self._waiting.append(entry)

    @property
    def _running(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.attempt is not None]

    @property
    def is_over(self) -> bool:
        """Whether nothing runs, and nothing will be started."""
        return not self._running and (self.stop_reason != "" or not self._waiting)

    def count(self, state: State) -> int:
        """Return the number of runs in a state."""
        return sum(entry.state is state for entry in self.entries)

    def stop(self, reason: str) -> None:
        """Ask all runs to end soon; safe in a signal handler, since the next `advance` does it."""
        self.stop_reason = reason

    def run(self, interval: float, show: Callable[[], None]) -> None:
        """Carry the runs out, and call `show` every `interval` seconds."""
        while not self.is_over:
            self.advance()
            show()
            time.sleep(0 if self.is_over else interval)

    def advance(self) -> None:
        """Look at every run once: end, start and stop what is due."""
        if self.stop_reason and not self._is_asked:
            self._is_asked = True
            self._tell(f"{self.stop_reason}: {len(self._running)} runs are writing their checkpoints")
            for entry in self._running:
                entry.attempt.stop()  # type: ignore[union-attr]
            for entry in self._waiting:
                entry.state = State.STOPPED
        for entry in self._running:
            said = entry.attempt.poll()  # type: ignore[union-attr]
            entry.work.look()
            if said is not None:
                self._end(entry, said)
        for _ in range(0 if self.stop_reason else len(self._waiting)):
            if len(self._running) >= self._pool.most:
                break
            self._start(self._waiting.popleft())

    def _start(self, entry: Entry) -> None:
        if holder := entry.work.holder():
            if entry.state is not State.IN_USE:
                self._tell(f"{entry.work.name}: waiting ({holder})")
            entry.state = State.IN_USE
            self._waiting.append(entry)
            return
        if entry.state is State.IN_USE and entry.work.is_finished():  # the other process has done it
            entry.state = State.FINISHED
            return
        try:
            entry.attempt = self._pool.start(entry.work)
        except (OSError, RuntimeError) as error:
            self._end(entry, describe_error(error))
            return
        entry.state = State.RUNNING
        self._tell(f"{entry.work.name}: started at {entry.work.progress.env_frames:,} env_frames")

    def _end(self, entry: Entry, said: str) -> None:
        """Decide what becomes of a run whose attempt has ended."""
        entry.attempt, name, frames = None, entry.work.name, entry.work.progress.env_frames
        if entry.work.is_finished():
            entry.state, entry.why = State.FINISHED, ""
            self._tell(f"{name}: finished at {frames:,} env_frames")
        elif self.stop_reason:
            entry.state = State.STOPPED
        else:
            entry.failures = 1 if frames > entry.furthest else entry.failures + 1
            entry.furthest, entry.why = max(frames, entry.furthest), said or "stopped from outside"
            if entry.failures > self._retries:
                entry.state = State.FAILED
                self._tell(f"{name}: failed at {frames:,} env_frames: {entry.why}")
            else:
                entry.state = State.WAITING
                self._waiting.append(entry)
                self._tell(f"{name}: ended early at {frames:,} env_frames, to be resumed: {entry.why}")
