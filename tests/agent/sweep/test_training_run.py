"""What a run's folder says about its progress, and the table that shows it."""

import json
import os
import shutil
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from agent.config.files import load_config
from agent.run_folder.lock import RunLock
from agent.sweep.scheduler import Entry, Progress, State
from agent.sweep.table import SweepTable
from agent.sweep.training_run import MetricsTail, TrainingRun
from tests.agent.sweep.trivial_runs import Counting


def line(env_frames: int, **metrics: float | None) -> str:
    return json.dumps({"env_frames": env_frames, "updates": 1} | metrics) + "\n"


def test_metrics_are_read_as_they_grow_and_again_once_replaced(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() == Progress()
    path.write_text(line(10, train_return=1.0) + line(20, eval_return=5.0) + line(30, eval_return=None))
    assert tail.read() == Progress(30, 5.0, 20)
    with open(path, "a") as file:
        file.write(line(40) + line(50)[:-4])  # a line that is being written
        file.flush()
        assert tail.read() == Progress(40, 5.0, 20)
        file.write(line(50)[-4:])
    assert tail.read() == Progress(50, 5.0, 20)
    other = tmp_path / "other"
    other.write_text(line(10) + line(20, eval_return=4.0))
    os.replace(other, path)  # as at a resume: later lines of a killed run are dropped
    assert tail.read() == Progress(20, 4.0, 20)


@pytest.fixture
def run(finished_run, tmp_path) -> TrainingRun:
    shutil.copytree(finished_run, tmp_path / "runs" / "a")
    return TrainingRun("a", load_config(finished_run / "config.yaml"), {}, tmp_path)


def test_a_run_is_finished_at_its_budget_with_all_its_work(run):
    assert run.is_finished()
    run.look()
    assert run.progress == Progress(120, 55.0, 120)
    for longer in ({"env_frames": 121}, {"train": replace(run.config.train, final_updates=3)}):
        assert not TrainingRun("a", replace(run.config, **longer), {}, run.logdir.parents[1]).is_finished()
    [checkpoint] = (run.logdir / "checkpoints").glob("*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    assert not run.is_finished()
    checkpoint.unlink()
    assert not run.is_finished()


def test_the_holder_of_a_folder_is_named_and_looking_leaves_it_free(run):
    assert run.holder() == ""
    lock = RunLock(run.logdir)
    lock.acquire()
    assert f"process {os.getpid()} on" in run.holder()
    lock.release()
    assert run.holder() == ""
    assert TrainingRun("new", run.config, {}, run.logdir.parents[1]).holder() == ""
    assert not (run.logdir.parent / "new").exists()


def test_a_table_that_is_too_long_shows_what_runs_and_what_failed(tmp_path):
    states = [State.FINISHED, State.WAITING, State.FAILED, State.WAITING, State.RUNNING]
    entries = [Entry(Counting(name, tmp_path), state) for name, state in zip("abcde", states, strict=True)]
    entries[2].why, entries[4].work.progress = "no luck", Progress(1234, 7.25, 1000)
    out = StringIO()
    table = SweepTable(entries, Console(file=out, force_terminal=True, width=100, height=8, color_system=None))
    with table:
        table.show()
        table.note("a line")
        shown, rest = out.getvalue(), len(out.getvalue())
    assert shown.index("running") < shown.index("failed")
    assert "1,234 of 3" in shown
    assert "7.2 at 1,000" in shown
    assert "2 waiting, 1 running, 1 finished, 1 failed; 3 not shown" in shown
    last = out.getvalue()[rest:]
    assert [row.split()[1] for row in last.splitlines() if row.startswith("│")][-5:] == [*"abcde"]
    assert "no luck" in last


def test_a_console_that_is_no_terminal_gets_lines_and_the_table_at_the_end(tmp_path):
    out = StringIO()
    table = SweepTable([Entry(Counting("a", tmp_path), State.RUNNING)], Console(file=out, width=100))
    with table:
        table.show()
        assert out.getvalue() == ""
        table.note("a: started")
        assert out.getvalue() == "a: started\n"
    assert "1 running" in out.getvalue()
