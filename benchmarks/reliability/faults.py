"""Real training runs, killed, starved and spoiled; and whether what is left goes on as if nothing had been.

    python -m benchmarks.reliability.faults [--kills 50] [--each 10] [--seed 0] [--only kills ...] [--folder runs]
        [--json out.json]

Each run is a process that trains the debug preset on `reaching`. A run "survived" where it went on without an error and
its last checkpoint, its metrics (clocks aside) and its episodes are, bit for bit, those of a run that was left alone;
for faults that change what is learned, where it ended as docs/reliability.md says. Linux only.
"""

import argparse
import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from agent.config.files import load_config
from agent.run_folder.checkpoint import load_newest
from agent.training.display import Display
from benchmarks.harness.command import Command, Report
from benchmarks.reliability.injection import (
    ENCODER_FAULTS,
    LOSSES,
    failing_env,
    failing_evaluation,
    full_disk,
    killed_inside_write,
    lost_encoder,
    lost_screen,
    nan_in_loss,
    nan_in_weights,
)
from benchmarks.reliability.processes import descendants, workers
from benchmarks.reliability.run_process import (
    SAFE_SECONDS,
    SETTINGS,
    Injection,
    compare,
    episodes,
    finish,
    lost_episodes,
    metrics,
    start,
    text,
    wait_for_end,
)
from envs import Driver

# Forked with every run, not imported by it.
PRELOADED = ("agent.training.trainer", "run_agent", "scipy.stats", "tensorboard", "torch._dynamo")
GROUPS = ("kills", "signals", "screen", "videos", "disk", "workers", "numbers")
ENV_METHODS = ("make", "reset", "step", "render_frame", "close")
VIDEO_FRAMES = 5
Row = dict[str, Any]


# ---------------------------------------------------------------- faults, each a row of the table


class Harness:
    """Runs in a folder, the one that was left alone for each number of environments, and chance from a seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.chance, self._number = folder, random.Random(seed), 0
        self.straight: dict[tuple[int, int], Path] = {}
        self.seconds: dict[int, float] = {}

    def fresh(self) -> Path:
        """A folder for a run."""
        self._number += 1
        return self.folder / f"run{self._number}"

    def reference(self, num_envs: int, video_frames: int = 0) -> Path:
        """The uninterrupted run."""
        key = num_envs, video_frames
        if key not in self.straight:
            logdir, begun = self.fresh(), time.monotonic()
            if finish(start(logdir, num_envs, train__video_frames=video_frames)) != 0:
                raise RuntimeError(f"the uninterrupted run failed, see {logdir.with_suffix('.log')}")
            self.straight[key], self.seconds[num_envs] = logdir, time.monotonic() - begun
        return self.straight[key]

    def stops(self, name: str, count: int, num_envs: int, stop: "Stop") -> Row:
        """Runs that are stopped again and again until they have stopped `count` times in all."""
        reference = self.reference(num_envs)
        tried = survived = 0
        seconds: list[float] = []
        faults: list[str] = []
        while tried < count:
            logdir, before, here = self.fresh(), {}, 0
            while True:
                status, took = (
                    stop(self, logdir, num_envs) if tried < count else (finish(start(logdir, num_envs)), None)
                )
                if took is None:
                    break
                tried, here = tried + 1, here + 1
                seconds.append(took)
                before |= episodes(logdir)
            found = [f"exit status {status}"] if status != 0 else compare(reference, logdir)
            found += [f"lost {name}" for name in lost_episodes(before, logdir)]
            faults += [f"{logdir.name}: {place}" for place in found]
            survived += here if not found else 0
        row = {"fault": name, "tried": tried, "survived": survived, "faults": faults}
        return row | {"seconds_to_exit": round(max(seconds), 2)} if "SIG" in name else row


Stop = Callable[[Harness, Path, int], tuple[int, float | None]]


def stop_at_random(number: int, harness: Harness, logdir: Path, num_envs: int) -> tuple[int, float | None]:
    """Send a signal at a random moment -> exit status, seconds to the exit; None where the run was over before."""
    process = start(logdir, num_envs)
    process.join(harness.chance.uniform(0.05, 0.8) * harness.seconds[num_envs])
    if process.exitcode is not None:
        return process.exitcode, None
    below, sent = descendants(process.pid or 0), time.monotonic()
    os.kill(process.pid or 0, number)
    status = finish(process)
    took = time.monotonic() - sent
    left = wait_for_end(below)
    return (1001, None) if left else (status, took)


def stop_inside_write(harness: Harness, logdir: Path, num_envs: int) -> tuple[int, float | None]:
    """kill -9 inside a write of a checkpoint, an episode or another file."""

    status = finish(start(logdir, num_envs, partial(killed_inside_write, harness.chance.randint(1, 24))))
    return status, 0.0 if status == -signal.SIGKILL else None


def lose_worker(number: int, harness: Harness) -> bool:
    """Kill or freeze one worker of two: its episode is cut, the run ends as it should, and no worker is left."""

    logdir = harness.fresh()
    inject = partial(patch, "agent.training.collector.Driver", partial(Driver, timeout=3.0))
    process = start(logdir, 2, inject, env_frames=2000, replay__capacity_steps=2000)
    deadline = time.monotonic() + SAFE_SECONDS
    found: list[int] = []
    while len(found) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        found = workers(process.pid or 0) if text(logdir) else []
    os.kill(harness.chance.choice(found), number)
    while time.monotonic() < deadline and process.exitcode is None and "env_restarts" not in text(logdir):
        time.sleep(0.1)
    os.kill(process.pid or 0, signal.SIGTERM)
    return finish(process) == 0 and "env_restarts" in text(logdir) and not wait_for_end(found)


def fill_disk(harness: Harness) -> bool:
    """A random write and all later ones fail; with room again the run is the one that was left alone."""

    logdir = harness.fresh()
    status = finish(start(logdir, 1, partial(full_disk, logdir, harness.chance.randint(2, 160))))
    said = logdir.with_suffix(".log").read_text(encoding="utf-8")
    is_told = status == 0 or (status in (1, 2) and "No space left on device" in said and "Traceback" not in said)
    return is_told and finish(start(logdir)) == 0 and not compare(harness.reference(1), logdir)


def spoil_once(inject: Injection, harness: Harness) -> bool:
    """A number is not finite once: the run skips it and ends as it should."""
    logdir = harness.fresh()
    status = finish(start(logdir, 1, inject, train__log_every=1))
    rows = metrics(logdir)
    told = rows[-1].get("skipped_updates", 0) or any(
        row.get("skipped_updates", 0) == 1 or "env_restarts" in row for row in rows
    )
    return status == 0 and bool(told)


def spoil_for_good(inject: Injection, harness: Harness) -> bool:
    """Numbers are not finite from some moment on: the run goes back once, then ends with what it had before."""

    logdir = harness.fresh()
    status = finish(start(logdir, 1, inject, train__max_skipped=3))
    payload = load_newest(logdir / "checkpoints")[0]
    is_lower = load_config(logdir / "config.yaml").optimizer.lr_factor < 1
    return status == 1 and is_lower and payload["guard"]["in_a_row"] == 0


def spoil_weights(place: str, harness: Harness) -> bool:
    """A weight is not finite: the run goes back to finite ones and ends as it should."""

    logdir = harness.fresh()
    status = finish(start(logdir, 1, partial(nan_in_weights, place, 9), train__max_skipped=3))
    return status == 0 and load_config(logdir / "config.yaml").optimizer.lr_factor < 1


def lose_screen(kind: str, harness: Harness) -> bool:
    """Output cannot be written any more from a random moment on: the run is the one that was left alone."""

    reference, logdir = harness.reference(1), harness.fresh()

    @contextmanager
    def inject() -> Iterator[None]:
        with (
            patch("agent.training.trainer.Display", partial(Display, interval=0.0)),
            lost_screen(kind, harness.chance.uniform(0.0, 0.8) * harness.seconds[1]),
        ):
            yield

    return finish(start(logdir, 1, inject, quiet=False)) == 0 and not compare(reference, logdir)


def lose_evaluation(method: str, harness: Harness) -> bool:
    """The environments of evaluations raise from one of them on: told, and training is what it was."""

    reference, logdir = harness.reference(1, VIDEO_FRAMES), harness.fresh()
    inject = partial(failing_evaluation, method, harness.chance.randint(1, 4))
    status = finish(start(logdir, 1, inject, quiet=False, train__video_frames=VIDEO_FRAMES))
    said = logdir.with_suffix(".log").read_text(encoding="utf-8")
    is_told = "injected: only one instance may exist" in said and "Traceback" not in said
    return status == 0 and is_told and not compare(reference, logdir, evaluations=False)


def lose_encoder(fault: str, harness: Harness) -> bool:
    """Videos cannot be written as usual: told, and all else is what it was."""

    reference, logdir = harness.reference(1, VIDEO_FRAMES), harness.fresh()
    status = finish(start(logdir, 1, partial(lost_encoder, fault), quiet=False, train__video_frames=VIDEO_FRAMES))
    said, written = logdir.with_suffix(".log").read_text(encoding="utf-8"), list((logdir / "videos").glob("[0-9]*"))
    is_told = "no video: libx264 failed (SIGKILL)" in said if fault == "killed" else "is written by" in said
    is_right = is_told and "Traceback" not in said and bool(written) == (fault != "killed")
    return status == 0 and is_right and not compare(reference, logdir)


def numbers(harness: Harness) -> list[Row]:
    """Every loss spoiled once and for good; rewards and weights."""

    once = {name: spoil_once(partial(nan_in_loss, name, range(9, 10)), harness) for name in LOSSES}
    always = {name: spoil_for_good(partial(nan_in_loss, name, range(9, 1000)), harness) for name in LOSSES}
    weights = {name: spoil_weights(name, harness) for name in ("model", "actor_critic")}
    reward = {"reward": spoil_once(partial(failing_env, "nan", range(40, 41)), harness)}
    rows = {
        "NaN in one update's loss": once,
        "NaN in a loss from some update on": always,
        "NaN in a weight (actions follow)": weights,
        "NaN in a reward": reward,
    }
    return [counted(name, found) for name, found in rows.items()]


def counted(fault: str, found: dict[str, bool]) -> Row:
    """Name of a trial -> whether it was survived, as a row."""
    return {
        "fault": fault,
        "tried": len(found),
        "survived": sum(found.values()),
        "faults": [name for name, is_good in found.items() if not is_good],
    }


def several(fault: str, count: int, trial: Callable[[], bool]) -> Row:
    """The same trial so many times."""
    return counted(fault, {str(number): trial() for number in range(count)})


def in_turn(
    fault: str, count: int, trial: Callable[[str, Harness], bool], kinds: Sequence[str], harness: Harness
) -> Row:
    """A trial of each kind in turn, so many in all."""
    return counted(
        f"{fault} ({', '.join(kinds)})",
        {
            f"{number}: {kinds[number % len(kinds)]}": trial(kinds[number % len(kinds)], harness)
            for number in range(count)
        },
    )


def try_all(given: argparse.Namespace, harness: Harness) -> list[Row]:
    """All rows, or those of `--only`."""

    kill, term, hangup = (partial(stop_at_random, number) for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP))
    third, each = given.kills // 3, given.each
    groups: dict[str, Callable[[], list[Row]]] = {
        "kills": lambda: [
            harness.stops("kill -9 at a random moment, one environment", third, 1, kill),
            harness.stops("kill -9 at a random moment, two environments", third, 2, kill),
            harness.stops("kill -9 inside a write to disk", given.kills - 2 * third, 1, stop_inside_write),
        ],
        "signals": lambda: [harness.stops("SIGTERM at a random moment", each, 1, term)],
        "screen": lambda: [
            in_turn("screen lost", each, lose_screen, ("pipe", "terminal", "full"), harness),
            harness.stops("SIGHUP at a random moment", each, 1, hangup),
        ],
        "videos": lambda: [
            in_turn("evaluation's environment lost", each, lose_evaluation, ENV_METHODS, harness),
            in_turn("encoder lost", each, lose_encoder, ENCODER_FAULTS, harness),
        ],
        "disk": lambda: [several("disk full from a random write on", 2 * each, partial(fill_disk, harness))],
        "workers": lambda: [
            several("worker killed", each // 2, partial(lose_worker, signal.SIGKILL, harness)),
            several("worker frozen (SIGSTOP)", each // 2, partial(lose_worker, signal.SIGSTOP, harness)),
            several(
                "environment raises", 1, partial(spoil_once, partial(failing_env, "raise", range(40, 41)), harness)
            ),
        ],
        "numbers": lambda: numbers(harness),
    }
    chosen = groups if given.only is None else {name: groups[name] for name in given.only}
    rows = []
    for make in chosen.values():
        for row in make():
            print(f"{row['fault']}: {row['survived']} of {row['tried']} {' '.join(row['faults'])}", flush=True)
            rows.append(row)
    return rows


def measure(given: argparse.Namespace) -> Report:
    """Try everything in a folder of runs -> {"rows", "seconds"}."""
    for module in PRELOADED:
        importlib.import_module(module)
    folder = given.folder if given.folder is not None else Path(mkdtemp(prefix="faults"))
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    rows = try_all(given, Harness(folder, given.seed))
    return {"settings": {"run": SETTINGS}, "seconds": round(time.monotonic() - begun), "rows": rows}


def show(console: Console, report: Report) -> None:
    """Print how many of each fault were survived."""
    table = Table("fault", "tried", "survived")
    for row in report["rows"]:
        table.add_row(row["fault"], str(row["tried"]), str(row["survived"]))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try, print, write; exit status 1 where a fault was not survived."""
    command = Command("reliability.faults", __doc__)
    command.set_defaults(threads=1)
    command.add_argument("--kills", type=int, default=50)
    command.add_argument("--each", type=int, default=10, help="trials of most other faults")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--only", nargs="+", choices=GROUPS)
    command.add_argument("--folder", type=Path, help="where the runs are kept (default: a new one below /tmp)")
    return command.run(
        arguments, measure, show, lambda report: all(row["survived"] == row["tried"] for row in report["rows"])
    )


if __name__ == "__main__":
    sys.exit(main())
