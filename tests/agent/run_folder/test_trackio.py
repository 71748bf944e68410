"""The copy in Trackio's local database: what it holds, and that a resumed run continues in it."""

import importlib
import json
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from envs import packages
from run_agent import main

TRAIN = ["train", "--preset", "debug", "--log", "trackio", "tensorboard", "--train.video_frames", "8"]


@pytest.fixture
def storage(monkeypatch, tmp_path):
    """Trackio's database, in a folder of this test."""
    pytest.importorskip("trackio", reason="trackio is not installed (pip install -e '.[trackio]')")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "database"))
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads the variable when it is imported
    return importlib.import_module("trackio.sqlite_storage").SQLiteStorage


def test_a_run_and_its_resumption_are_one_run_of_the_project(storage, tmp_path, capsys):
    logdir = tmp_path / "demo"
    assert main([*TRAIN, "--env_frames", "120", "--logdir", str(logdir)]) == 0
    (name,) = storage.get_runs("aime")
    assert name == f"demo-{(logdir / 'trackio' / 'run_id').read_text()}"
    shown = capsys.readouterr().out
    assert f"Trackio: {name}; show it with  trackio show --project aime\n" in shown
    assert "* " not in shown  # none of trackio's own lines
    assert main(["train", "--log", "trackio", "--env_frames", "130", "--logdir", str(logdir)]) == 0
    assert storage.get_runs("aime") == [name]
    kept = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    finite = [{key: value for key, value in row.items() if value is not None} for row in kept]
    logged = storage.get_logs("aime", name)
    own = [{key: value for key, value in row.items() if key not in ("step", "timestamp")} for row in logged]
    assert [row for row in own if "agent_steps" in row] == finite
    assert [row["step"] for row in logged if "agent_steps" in row] == [row["env_frames"] for row in finite]
    (video, *_) = [row["evaluation"] for row in own if "evaluation" in row]
    assert (tmp_path / "database" / "media" / video["file_path"]).read_bytes()[:4] == b"GIF8"
    assert (logdir / "tensorboard").exists()


def test_without_the_package_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "version", missing)
    assert main([*TRAIN, "--logdir", str(tmp_path / "demo")]) == 2
    assert not (tmp_path / "demo").exists()
    said = "trackio: got no package, expected the version that `pip install 'trackio>=0.43'` installs"
    assert capsys.readouterr().err == f"run_agent.py: error: {said}\n"


def test_an_unknown_tracker_is_one_line(capsys, tmp_path):
    assert main(["train", "--log", "wandb2", "--logdir", str(tmp_path / "demo")]) == 2
    said = "run_agent.py: error: log: got 'wandb2', expected any of tensorboard, wandb, trackio\n"
    assert capsys.readouterr().err == said


def test_without_a_tracker_the_run_has_its_own_files_alone(tmp_path):
    logdir = tmp_path / "demo"
    assert main(["train", "--preset", "debug", "--env_frames", "120", "--log", "--logdir", str(logdir)]) == 0
    assert not (logdir / "tensorboard").exists()
    assert (logdir / "progress.csv").exists()
