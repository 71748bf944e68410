"""Runs as jobs of submitit, with little scripts instead of training, and clusters that are not there."""

import os
import socket
import stat
from pathlib import Path

import pytest

from agent.sweep.scheduler import Scheduler
from agent.sweep.slurm import SubmititPool, Task, parse_parameters, slurm_executor
from run_agent import main
from tests.agent.sweep.trivial_runs import Counting, wait
from tests.envs.sleepers import is_alive

SWEEP = ["sweep", "--tasks", "counting", "--preset", "debug"]


@pytest.fixture
def local_pool(tmp_path, monkeypatch):
    """Jobs of submitit's local executor."""
    submitit = pytest.importorskip("submitit", reason="needs submitit, of the extra `scale`")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())

    def make(folder: Path, name: str):
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=10)
        return executor

    return SubmititPool(make, tmp_path / "jobs", 2, None)


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A stand-in for SLURM's commands: sbatch keeps the path of its script in the returned file."""
    pytest.importorskip("submitit", reason="needs submitit, of the extra `scale`")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "sacct", "scancel"):
        program = folder / name
        program.write_text(f"#!/bin/sh\n[ {name} = sbatch ] && cp $1 {folder}/script && echo Submitted batch job 12\n")
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "script"


def test_jobs_are_carried_out_failed_ones_again(tmp_path, local_pool):
    script = "import sys; sys.exit('no luck')"
    told = []
    scheduler = Scheduler([Counting("a", tmp_path), Counting("b", tmp_path, script)], local_pool, 1, told.append)
    scheduler.run(0.1, lambda: None)
    assert [entry.state.value for entry in scheduler.entries] == ["finished", "failed"]
    assert told[-1] == "b: failed at 0 env_frames: no luck"
    assert len([*(tmp_path / "jobs" / "b").glob("*_submitted.pkl")]) == 2


def test_a_job_of_an_earlier_call_is_followed_and_a_stop_reaches_its_run(tmp_path, local_pool):
    work = Counting("a", tmp_path, goal=1000, pause=0.05)
    first = local_pool.start(work)
    wait(work.lines)
    assert first.poll() is None
    assert first.state == "running"
    second = local_pool.start(work)
    # submitit's local executor knows nothing of another process's jobs, SLURM does: here the process is found again.
    assert second._job.job_id != first._job.job_id
    pid = int(work.lines()[0].split()[1])
    for job in (first, second):
        job.stop()
        wait(lambda job=job: job.poll() is not None)
    wait(lambda: not is_alive(pid))


def test_a_task_stops_its_command_before_it_is_requeued(tmp_path):
    pytest.importorskip("submitit", reason="needs submitit, of the extra `scale`")
    from agent.sweep.child import Child

    work = Counting("a", tmp_path, goal=1000, pause=0.05)
    task = Task(work.command(None), work.log)
    task._child = Child(work.command(None), work.log)
    wait(work.lines)
    again = task.checkpoint()
    assert task._child.poll() == "SIGTERM"
    assert not is_alive(int(work.lines()[0].split()[1]))
    before = len(work.lines())
    again.function._command[-2:] = [str(before + 2), "0"]
    assert again.result() == ""
    assert [int(line.split()[0]) for line in work.lines()] == [*range(1, before + 3)]


def test_the_job_file_asks_for_what_a_run_needs(tmp_path, slurm):
    make = slurm_executor(parse_parameters(["partition=long", "time=90", "mem=8GB"]), threads=3, needs_gpu=True)
    job = SubmititPool(make, tmp_path / "jobs", 5, 3).start(Counting("walker-seed0", tmp_path))
    text = slurm.read_text()
    for flag in (
        "--job-name=walker-seed0",
        "--partition=long",
        "--time=90",
        "--mem=8GB",
        "--cpus-per-task=3",
        "--gpus-per-node=1",
        "--signal=USR2@90",
    ):
        assert f"#SBATCH {flag}\n" in text
    assert "export PYTHONPATH=" in text
    assert f"submitit.core._submit {tmp_path}/jobs/walker-seed0" in text
    assert job.poll() is None  # sacct has not heard of it yet
    again = SubmititPool(make, tmp_path / "jobs", 5, 3).start(Counting("walker-seed0", tmp_path))
    assert again._job.job_id == "12"  # followed, not submitted twice
    assert len([*(tmp_path / "jobs" / "walker-seed0").glob("*_submitted.pkl")]) == 1


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    text = capsys.readouterr().err
    assert text.startswith("run_agent.py: error: ")
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (["partitio=long"], "partitio"),
        (["time=4:00:00"], "slurm: got time=4:00:00, expected a number of minutes"),
        (["partition"], "slurm: got 'partition'"),
        (["setup=x"], "slurm: got 'setup=x'"),
    ],
)
def test_bad_parameters_of_slurm_are_refused(tmp_path, slurm, capsys, parameters, named):
    logdir = tmp_path / "sweep"
    assert named in refused(capsys, *SWEEP, "--logdir", str(logdir), "--on", "slurm", "--slurm", *parameters)
    assert not logdir.exists()


def test_a_missing_sbatch_is_told(tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit", reason="needs submitit, of the extra `scale`")
    monkeypatch.setenv("PATH", str(tmp_path))
    text = refused(capsys, *SWEEP, "--logdir", str(tmp_path / "sweep"), "--on", "slurm")
    assert "on: got slurm, but no sbatch on the PATH" in text
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("place", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_extra_is_told(tmp_path, monkeypatch, capsys, place, package):
    monkeypatch.setattr("envs.packages.find_spec", lambda name: None)
    text = refused(capsys, *SWEEP, "--logdir", str(tmp_path / "sweep"), "--on", place)
    assert f"`pip install {package}`" in text
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "somewhere", "10.0.0.1:x"])
def test_a_ray_head_that_does_not_answer_is_told(tmp_path, capsys, monkeypatch, address):
    monkeypatch.setattr("envs.packages.find_spec", lambda name: name)  # it is not imported
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        address = address.format(port=closed.getsockname()[1])
        text = refused(capsys, *SWEEP, "--logdir", str(tmp_path / "sweep"), "--on", "ray", "--ray", address)
    assert f"ray: got '{address}'" in text
    assert [*tmp_path.iterdir()] == []
