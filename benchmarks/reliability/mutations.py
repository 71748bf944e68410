"""Damaged files: a run whose files were changed goes on as it was, says what it lost, or ends in one clear line.

    python -m benchmarks.reliability.mutations [--cases 1000] [--seed 0] [--json out.json]

A tiny run and a second one with another seed are trained. Then, a thousand times, one file of a copy of the first
(checkpoints, episodes, config.yaml, metrics.jsonl) is truncated, grown, has bits flipped or a block zeroed, changes
places with another file, or is replaced by something else, and the copy is opened as `train --resume` and as `evaluate`
do. Each outcome is one of

    error      one line, which names the file; nothing was trained
    told       the run goes on, and a line says what was set aside, passed over or mended
    harmless   no line, and the state of the run that goes on is the true one, bit for bit
    BAD        anything else: another kind of exception, a state that differs without a word, more than ten seconds of
               processor time, more than 200 MB of memory

Exit status 1 where a case is BAD.
"""

import argparse
import hashlib
import logging
import random
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from agent import Trainer, load, make_config
from agent.run_folder.load import run_config, trained_frames
from benchmarks.harness.command import Command, Report
from benchmarks.reliability.damage import KINDS, MUTATIONS, mutate

SETTINGS: dict[str, Any] = {
    "env.num_envs": 1,
    "env_frames": 150,
    "replay.prefill_frames": 60,
    "replay.capacity_steps": 90,
    "train.train_ratio": 2,
    "train.eval_every": 50,
    "train.eval_episodes": 1,
    "train.video_frames": 0,
    "train.log_every": 2,
}
MAX_SECONDS, MAX_GROWTH = 10, 200 * 2**20
OUTCOMES = ("error", "told", "harmless", "BAD")


class Case(NamedTuple):
    """What was done to which file, and what came of it through each door."""

    mutation: str
    kind: str
    outcomes: tuple[str, str]  # of train --resume, of evaluate
    detail: str  # the lines, for a BAD one


class TooSlow(BaseException):
    """The watchdog's; no door catches it."""


def make_run(logdir: Path, seed: int) -> None:
    """A tiny run with three checkpoints and six episodes."""
    Trainer(make_config("debug", "reaching", SETTINGS | {"seed": seed}), logdir, quiet=True).run()


# ---------------------------------------------------------------- doors: how a run is opened


def resume(logdir: Path) -> str:
    """`train --resume` up to the first tick -> a fingerprint of the whole run."""
    config, payload = run_config(logdir, print)
    trainer = Trainer(replace(config, env_frames=1000), logdir, resume=payload is not None, quiet=True)
    try:
        trainer.started = 0.0  # as its run() would have it: a clock, which the fingerprint leaves out
        state = trainer.state_dict()
        return fingerprint([state, trainer.replay.sample(1, len(trainer.replay))])
    finally:
        trainer.close()


def evaluate(logdir: Path) -> str:
    """`evaluate` up to the first episode -> a fingerprint of its agent."""
    return fingerprint([load(logdir, "cpu").state_dict(), trained_frames(logdir)])


DOORS = (evaluate, resume)  # in this order: the second one mends what it can


def fingerprint(value: Any) -> str:
    """A hash of nested plain values and tensors; clocks are left out."""
    digest = hashlib.sha256()

    def take(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype}{list(part.shape)}".encode() + part.contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for key in part.keys() - {"wall_seconds"} if "wall_seconds" in part else part:
                take(str(key))
                take(part[key])
        elif isinstance(part, list | tuple):
            digest.update(f"{len(part)}[".encode())
            for each in part:
                take(each)
        else:
            digest.update(repr(part).encode())

    take(value)
    return digest.hexdigest()


class Said(logging.Handler):
    """Warnings, and what was printed, while a door was open."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self.lines.append(record.getMessage())

    def write(self, text: str) -> None:
        """Keep what is printed."""
        self.lines += [line for line in text.splitlines() if line]

    def flush(self) -> None:
        """Nothing waits."""


def open_run(door: Callable[[Path], str], logdir: Path, truth: str) -> tuple[str, str]:
    """What comes of opening a run -> (one of OUTCOMES, the lines)."""
    said, memory = Said(), peak()
    logging.getLogger().addHandler(said)
    try:
        with watchdog(), redirect_stdout(said):  # type: ignore[type-var]
            found = door(logdir)
    except (ValueError, OSError) as error:  # what run_agent.py prints before it exits with status 2
        return ("error" if str(error) and peak() - memory < MAX_GROWTH else "BAD"), f"{type(error).__name__}: {error}"
    except (Exception, TooSlow) as error:
        return "BAD", f"{type(error).__name__}: {error}"
    finally:
        logging.getLogger().removeHandler(said)
    lines = "; ".join(said.lines)
    if peak() - memory > MAX_GROWTH:
        return "BAD", f"{(peak() - memory) / 2**20:.0f} MB more; {lines}"
    if said.lines:
        return "told", lines
    return ("harmless", "") if found == truth else ("BAD", "a state that differs, without a word")


def peak() -> int:
    """Bytes of memory that this process has had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def watchdog() -> Iterator[None]:
    """TooSlow after ten seconds of processor time."""

    def bark(*_: Any) -> None:
        raise TooSlow(f"more than {MAX_SECONDS} seconds")

    before = signal.signal(signal.SIGPROF, bark)
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# ---------------------------------------------------------------- the whole


def open_damaged(run: Path, other: Path, scratch: Path, count: int, seed: int) -> Iterator[Case]:
    """Mutate and open `count` copies of a run; `other` is another run of the same task."""
    truths = []
    for door in DOORS:
        shutil.copytree(run, scratch)
        truths.append(door(scratch))
        shutil.rmtree(scratch)
    chance = random.Random(seed)
    choices = [(mutation, kind) for mutation in MUTATIONS for kind in KINDS]
    choices.remove(("missing", "checkpoint"))  # the older one is the run as it was then, and the door says when
    for index in range(count):
        mutation, kind = choices[index % len(choices)]
        shutil.copytree(run, scratch)
        mutate(scratch, other, mutation, kind, chance)
        found = [open_run(door, scratch, truth) for door, truth in zip(DOORS, truths, strict=True)]
        detail = " | ".join(f"{door.__name__}: {text}" for door, (_, text) in zip(DOORS, found, strict=True))
        yield Case(mutation, kind, (found[0][0], found[1][0]), detail)
        shutil.rmtree(scratch)


def measure(given: argparse.Namespace) -> Report:
    """Run the cases -> {"counts", "bad"}: how many of each outcome for each kind of damage; the BAD ones in words."""
    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints every warning
    counts: dict[str, Counter[str]] = {f"{kind} {mutation}": Counter() for kind in KINDS for mutation in MUTATIONS}
    bad = []
    with TemporaryDirectory() as folder:
        run, other = Path(folder) / "run", Path(folder) / "other"
        make_run(run, 0)
        make_run(other, 1)
        for case in open_damaged(run, other, Path(folder) / "case", given.cases, given.seed):
            counts[f"{case.kind} {case.mutation}"].update(
                f"{door.__name__}: {outcome}" for door, outcome in zip(DOORS, case.outcomes, strict=True)
            )
            bad += [f"{case.mutation} {case.kind}: {case.detail}"] * ("BAD" in case.outcomes)
    return {"counts": counts, "bad": bad}


def show(console: Console, report: Report) -> None:
    """Print how many of each outcome, for each kind of file and door, and every BAD case."""
    table = Table("file", "opened as", *OUTCOMES)
    for kind in KINDS:
        counts: Counter[str] = sum((report["counts"][f"{kind} {mutation}"] for mutation in MUTATIONS), Counter())
        for door in DOORS:
            numbers = (str(counts[f"{door.__name__}: {outcome}"]) for outcome in OUTCOMES)
            table.add_row(kind, door.__name__, *numbers)
    console.print(table)
    for line in report["bad"]:
        console.print(f"BAD  {line}", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases, print, write; exit status 1 where one is BAD."""
    command = Command("reliability.mutations", __doc__)
    command.add_number("cases", 1000)
    command.add_argument("--seed", type=int, default=0, help="of the mutations")
    return command.run(arguments, measure, show, lambda report: not report["bad"])


if __name__ == "__main__":
    sys.exit(main())
