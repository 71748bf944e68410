"""`sweep` from end to end on the debug preset, and every bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.run_folder.lock import RunLock
from agent.sweep.local import LocalPool
from agent.sweep.scheduler import Scheduler
from run_agent import main
from tests.agent.sweep.trivial_runs import wait

ROOT = Path(__file__).resolve().parents[3]
SHORT = ["--preset", "debug", "--env_frames", "120", "--train.video_frames", "0", "--threads", "1"]
SHORT += ["--env.num_envs", "1"]
RUNS = [f"{task}-seed{seed}" for seed in (0, 1) for task in ("counting", "reaching")]


class Trained:
    """A run that has been trained in this process."""

    state = "running"

    def __init__(self, command: list[str]) -> None:
        self._status = main(command[1:])

    def poll(self) -> str:
        return "" if self._status == 0 else "failed"

    def stop(self) -> None:
        pass


@pytest.fixture
def in_process(monkeypatch) -> list[str]:
    """Runs are trained in this process, without imports; their names, in the order of their starts."""
    started = []

    def start(pool: LocalPool, work) -> Trained:
        started.append(work.name)
        return Trained(work.command(1))

    monkeypatch.setattr(LocalPool, "start", start)
    monkeypatch.setattr("agent.commands.sweep.INTERVALS", {"local": 0.0})
    return started


def table_of(text: str) -> dict[str, list[str]]:
    """Run -> state, env_frames, last evaluation of the last table in a text."""
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines() if line[:1] == "│"]
    return {row[0]: row[1:4] for row in rows}


def test_a_sweep_that_is_stopped_goes_on_and_can_be_added_to(tmp_path, in_process, capsys, monkeypatch):
    logdir = tmp_path / "sweep"
    command = ["sweep", "--tasks", "counting", "reaching", *SHORT, "--logdir", str(logdir), "--jobs", "1"]
    advance = Scheduler.advance

    def advance_and_stop(scheduler: Scheduler) -> None:
        advance(scheduler)
        if in_process and not scheduler.stop_reason:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Scheduler, "advance", advance_and_stop)
        assert main(command) == 0
    out = capsys.readouterr().out
    assert in_process == RUNS[:1]
    assert "stopped (SIGINT): 1 of 2 runs have finished" in out
    assert f"run_agent.py sweep --tasks counting reaching --preset debug {' '.join(SHORT[2:])}" in out
    assert [row[0] for row in table_of(out).values()] == ["finished", "stopped"]
    assert not (logdir / "curves.png").exists()

    assert main(["sweep", "--logdir", str(logdir), "--jobs", "1"]) == 0  # the definition is in the folder
    assert in_process == RUNS[:2]
    assert [row[0] for row in table_of(capsys.readouterr().out).values()] == ["finished", "finished"]

    assert main([*command, "--seeds", "2"]) == 0
    table = table_of(capsys.readouterr().out)
    assert in_process == RUNS
    assert list(table) == RUNS
    assert [row[:2] for row in table.values()] == [["finished", "120 of 120"]] * 4
    for seed in (0, 1):  # an episode of `counting` returns 1 + ... + 10
        assert table[f"counting-seed{seed}"][2] == "55.0 at 120"
    panels = json.loads((logdir / "curves.json").read_text())
    assert [panel["title"].split()[0] for panel in panels] == ["counting", "reaching"]
    assert panels[0]["curves"][0]["mean"] == [55.0]
    assert panels[0]["curves"][0]["runs"] == 2
    assert (logdir / "curves.png").stat().st_size > 1000

    assert main([*command, "--seeds", "1"]) == 2  # runs are not taken away
    assert "holds another sweep (seeds: 0 1 -> 0)" in capsys.readouterr().err


def start(logdir: Path, *options: str) -> "subprocess.Popen[str]":
    command = ["sweep", "--tasks", "counting", "reaching", "--seeds", "2", "--jobs", "2", *SHORT, *options]
    command += ["--train.checkpoint_minutes", "0.001", "--logdir", str(logdir)]
    return subprocess.Popen(
        [sys.executable, "run_agent.py", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_sweep_goes_on(tmp_path):
    logdir, longer = tmp_path / "sweep", ("--env_frames", "600")
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = {*logdir.glob("runs/*/checkpoints/*.pt")}
        sweep = start(logdir, *longer)
        wait(lambda before=before: {*logdir.glob("runs/*/checkpoints/*.pt")} - before)
        sweep.send_signal(number)
        said, _ = sweep.communicate()
        assert sweep.returncode == (0 if number == signal.SIGTERM else -number)
        assert ("stopped (SIGTERM)" in said) == (number == signal.SIGTERM)
    sweep = start(logdir, *longer)
    said, _ = sweep.communicate()
    assert sweep.returncode == 0
    table = table_of(said)
    assert sorted(table) == sorted(RUNS)
    assert [row[0] for row in table.values()] == ["finished"] * 4


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "tasks: got none"),
        (["--seeds", "3"], "tasks: got none"),
        (["--tasks", "walker_wlak"], "'walker_walk'"),
        (["--tasks", "counting", "--preset", "debgu"], "'debug'"),
        (["--tasks", "counting", "--set", "world_model.max_component=1,8"], "'world_model.max_components'"),
        (["--tasks", "counting", "--set", "replay.batch_size=4,four"], "replay.batch_size: got 'four'"),
        (["--tasks", "counting", "--set", "seed=1,2"], "seed: got a value, expected the option --seeds"),
        (["--tasks", "counting", "--seed", "1"], "seed: got a value, expected the option --seeds"),
        (["--tasks", "counting", "--replay.batch_siz", "4"], "'replay.batch_size'"),
        (["--tasks", "counting", "--seeds", "0"], "seeds: got 0, expected at least 1"),
        (["--tasks", "counting", "--jobs", "0"], "jobs: got 0, expected at least 1"),
        (["--tasks", "counting", "--retries", "-1"], "retries: got -1, expected at least 0"),
        (["--tasks", "counting", "--on", "moon"], "on: invalid choice: 'moon'"),
        (["--tasks", "counting", "--slurm", "time=9"], "slurm: got a value with --on local"),
        (["--tasks", "counting", "--ray", "1.2.3.4:5"], "ray: got a value with --on local"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, arguments, expected):
    preset = [] if "--preset" in arguments else ["--preset", "debug"] * ("--tasks" in arguments)
    assert main(["sweep", "--logdir", str(tmp_path / "sweep"), *arguments, *preset]) == 2
    error = capsys.readouterr().err
    assert error.startswith("run_agent.py: error: ")
    assert error.count("\n") == 1
    assert expected in error
    assert [*tmp_path.iterdir()] == []


def test_a_cluster_needs_a_preset(tmp_path, capsys):
    assert main(["sweep", "--tasks", "counting", "--logdir", str(tmp_path / "a"), "--on", "slurm"]) == 2
    assert "preset: got none, expected one with --on slurm" in capsys.readouterr().err


def test_folders_of_something_else_of_another_sweep_and_in_use(tmp_path, capsys, in_process):
    command = ["sweep", "--tasks", "counting", "--preset", "debug", "--logdir"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert main([*command, str(tmp_path / "run")]) == 2
    assert "holds something else" in capsys.readouterr().err
    (tmp_path / "sweep").mkdir()
    definition = "preset: debug\ntasks: [counting, reaching]\nseeds: 2\n"
    (tmp_path / "sweep" / "sweep.yaml").write_text(definition)
    assert main([*command, str(tmp_path / "sweep")]) == 2
    line = "holds another sweep (tasks: counting reaching -> counting; seeds: 0 1 -> 0); choose another --logdir"
    assert line in capsys.readouterr().err
    lock = RunLock(tmp_path / "sweep")
    lock.acquire()
    assert main(["sweep", "--logdir", str(tmp_path / "sweep")]) == 2
    assert f"process {os.getpid()} on" in capsys.readouterr().err
    lock.release()
    assert (tmp_path / "sweep" / "sweep.yaml").read_text() == definition
    assert in_process == []
