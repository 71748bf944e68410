"""The copy at Weights & Biases, offline: what it holds, that a resumed run goes on in it, that it never stops a run."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from agent.run_folder import wandb_writer
from agent.run_folder.logger import Logger
from agent.run_folder.trackers import open_trackers
from envs import packages
from run_agent import main

ROOT = Path(__file__).resolve().parents[3]
COUNTERS = {"env_frames": 10, "agent_steps": 5, "updates": 2, "wall_seconds": 1.0}
TRAIN = ["train", "--preset", "debug", "--log", "wandb", "--train.video_frames", "8", "--env.num_envs", "1"]


@pytest.fixture
def service(monkeypatch):
    """wandb in offline mode; its service process ends with the test."""
    wandb = pytest.importorskip("wandb", reason="wandb is not installed (pip install -e '.[wandb]')")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield wandb
    wandb.teardown()


def records(path: Path) -> list:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB, records in parts) around protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, offset, found, parts = path.read_bytes(), 7, [], b""
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        length, kind = int.from_bytes(data[offset + 4 : offset + 6], "little"), data[offset + 6]
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(path: Path) -> list[dict]:
    """What was logged, one dict a moment, less W&B's own entries."""
    rows = [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.HasField("history")
    ]
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a process that knows nobody's login."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    own = {"HOME": str(folder), "PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited | own, cwd=folder, capture_output=True, text=True, check=False)


def test_a_run_and_its_resumption_are_one_run_of_the_project(service, tmp_path, capfd):
    logdir = tmp_path / "demo"
    assert main([*TRAIN, "--env_frames", "120", "--logdir", str(logdir)]) == 0
    assert f"W&B: offline; upload with  wandb sync {logdir}/wandb/offline-run-*\n" in capfd.readouterr().out
    assert main(["train", "--wandb", "--env_frames", "130", "--logdir", str(logdir)]) == 0
    service.teardown()  # it has written everything when its process has ended
    first, second = sorted((logdir / "wandb").glob("offline-run-*/*.wandb"))
    runs = [next(r.run for r in records(path) if r.HasField("run")) for path in (first, second)]
    assert {(run.project, run.display_name, run.run_id) for run in runs} == {
        ("aime", "demo", (logdir / "wandb" / "run_id").read_text())
    }
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert (config["task"], config["replay"]["batch_length"]) == ("counting", 8)
    kept = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    finite = [{name: value for name, value in row.items() if value is not None} for row in kept]
    logged = [row for path in (first, second) for row in history(path) if "agent_steps" in row]
    assert logged == finite
    (video, *_) = [row for row in history(first) if any(key.startswith("evaluation") for key in row)]
    assert video["evaluation.path"].endswith(".gif")


def test_a_new_run_in_the_same_folder_is_a_new_one(service, tmp_path):
    found = set()
    for resume in (False, True, False):
        wandb_writer.WandbWriter(tmp_path, {}, resume, print).close()
        found.add((tmp_path / "wandb" / "run_id").read_text())
    assert len(found) == 2


def test_trouble_is_told_once_and_ends_the_copy_not_the_run(service, tmp_path, monkeypatch):
    told: list[str] = []
    logger = Logger(tmp_path)
    logger.attach(*open_trackers(["wandb"], tmp_path, {}, False, told.append))

    def broken(*_: object) -> None:
        raise BrokenPipeError("the service\nis gone")

    monkeypatch.setattr(service.run, "log", broken)
    for _ in range(3):
        logger.write(COUNTERS, {"loss": 1.0})
    logger.note("x is below its range")
    logger.close()
    assert told[1:] == ["W&B: BrokenPipeError: the service is gone; the run continues without it"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_service_that_cannot_be_reached_leaves_the_copy_in_the_folder(service, tmp_path):
    code = f"""
from pathlib import Path
from agent.run_folder import wandb_writer
wandb_writer.WAIT_SECONDS = 1.0
wandb_writer.WandbWriter.check()
writer = wandb_writer.WandbWriter(Path("demo"), {{"seed": 3}}, False, print)
writer.write({COUNTERS}, {{"loss": 1.0}})
writer.note("x 1 is below its range", 10)
writer.close()
"""
    away = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    result = python(code, tmp_path, **away)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith("W&B: not reached (")
    assert second == "W&B: offline; upload with  wandb sync demo/wandb/offline-run-*"
    (copy,) = (tmp_path / "demo").glob("wandb/offline-run-*/*.wandb")
    assert history(copy) == [COUNTERS | {"loss": 1.0}, {"health": "x 1 is below its range", "env_frames": 10}]


# ---------------------------------------------------------------- refused before anything is written


def refused(capsys, logdir: Path) -> str:
    assert main([*TRAIN, "--logdir", str(logdir)]) == 2
    assert not logdir.exists()
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_without_the_package_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "version", missing)
    assert "wandb: got no package, expected the version that `pip install 'wandb>=0.31'` installs" in refused(
        capsys, tmp_path / "demo"
    )


def test_an_old_package_is_told_its_version(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(packages, "version", lambda _: "0.19.11")
    assert "wandb: got version 0.19.11, expected" in refused(capsys, tmp_path / "demo")


def test_without_a_login_one_line_says_how_to_get_one(service, tmp_path):
    code = f"import sys, run_agent; sys.exit(run_agent.main({[*TRAIN, '--logdir', 'demo']}))"
    result = python(code, tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "run_agent.py: error: wandb: got no login, expected `wandb login`, WANDB_API_KEY or WANDB_MODE=offline\n"
    )
    assert not (tmp_path / "demo").exists()
