"""The command line from end to end on the debug preset: train, stop, resume, evaluate, record, and every bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from run_agent import main

ROOT = Path(__file__).resolve().parents[3]
DEBUG = ["train", "--preset", "debug"]
SINGLE = [*DEBUG, "--env.num_envs", "1"]  # without the start of worker processes


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of the debug preset."""
    logdir = tmp_path_factory.mktemp("cli") / "runs" / "demo"
    budget = ["--env_frames", "130", "--replay.prefill_frames", "60"]
    assert main([*SINGLE, "--logdir", str(logdir), *budget, "--quiet"]) == 0
    return logdir


def lines(logdir: Path) -> list[dict]:
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(capsys, *argv: str) -> str:
    """The one line that a refused command leaves on stderr."""
    capsys.readouterr()
    assert main(argv) == 2
    text = capsys.readouterr().err
    assert text.startswith("run_agent.py: error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text


# ---------------------------------------------------------------- what works


def test_help_imports_nothing_heavy():
    heavy = "('torch', 'dm_control', 'mujoco', 'gymnasium', 'matplotlib')"
    program = f"import sys, run_agent; run_agent.main(['--help']); sys.exit(any(m in sys.modules for m in {heavy}))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert all(command in result.stdout for command in ("train", "evaluate", "record"))
    assert result.stderr == ""


@pytest.mark.parametrize("command", ["train", "evaluate", "record"])
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "--logdir" in capsys.readouterr().out


def test_a_quiet_run_leaves_what_the_readme_lists(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "progress.csv", "tensorboard", "checkpoints", "episodes", "videos"}
    assert lines(run)[-1]["env_frames"] == 130
    assert list(lines(run)[0])[:4] == ["env_frames", "agent_steps", "updates", "wall_seconds"]
    assert any("recon_loss" in row for row in lines(run))
    assert list((run / "videos").glob("*.mp4"))


def test_training_says_what_it_does_and_what_comes_next(capfd, tmp_path):
    logdir = tmp_path / "short"
    assert main([*SINGLE, "--logdir", str(logdir), "--env_frames=110"]) == 0
    out = capfd.readouterr().out
    assert "task counting  algo aime  preset debug  device cpu  parameters " in out
    assert "110/110 env_frames" in out
    assert f"run_agent.py evaluate --logdir {logdir}" in out
    before = files(logdir)
    assert main([*SINGLE, "--logdir", str(logdir), "--env_frames=110"]) == 0
    assert "are spent" in capfd.readouterr().out
    assert files(logdir) == before
    assert main(["train", "--logdir", str(logdir), "--resume", "--env_frames", "130"]) == 0
    assert f"resuming {logdir} at 110 env_frames" in capfd.readouterr().out
    frames = [row["env_frames"] for row in lines(logdir)]
    assert frames == sorted(frames)
    assert frames[-1] == 130


def start(*argv: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "run_agent.py", *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_updates(process: subprocess.Popen, logdir: Path, updates: int) -> None:
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        path = logdir / "metrics.jsonl"
        if path.exists() and f'"updates": {updates}' in path.read_text():
            return
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"no updates: {process.communicate()}")


def test_sigterm_ends_with_a_checkpoint_and_the_same_command_goes_on(tmp_path):
    logdir = tmp_path / "run"
    command = [*DEBUG, "--logdir", str(logdir), "--replay.prefill_frames", "30"]
    process = start(*command, "--env_frames", "1000000", "--train.eval_every", "1000000")
    wait_for_updates(process, logdir, 5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert f"train --logdir {logdir} --resume" in out
    stopped = lines(logdir)[-1]
    (checkpoint,) = (logdir / "checkpoints").iterdir()
    assert int(checkpoint.stem) >= stopped["updates"] >= 5
    budget = str(stopped["env_frames"] + 40)
    assert main([*command, "--env_frames", budget, "--train.eval_every", "1000000", "--quiet"]) == 0
    assert lines(logdir)[-1]["env_frames"] == int(budget)
    assert lines(logdir)[-1]["updates"] > stopped["updates"]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    logdir = tmp_path / "run"
    command = [*SINGLE, "--logdir", str(logdir), "--replay.prefill_frames", "30"]
    command += ["--train.eval_every", "40", "--train.video_frames", "0"]
    process = start(*command, "--env_frames", "1000000")
    wait_for_updates(process, logdir, 10)
    process.kill()
    process.communicate()
    reached = int(max((logdir / "checkpoints").glob("*.pt")).stem)
    assert reached > 0
    budget = lines(logdir)[-1]["env_frames"] + 60
    assert main([*command, "--env_frames", str(budget), "--quiet"]) == 0
    rows = lines(logdir)
    counted = [(row["env_frames"], row["updates"]) for row in rows]
    assert counted == sorted(counted)
    assert rows[-1]["env_frames"] == budget
    logged = [row["updates"] for row in rows if "recon_loss" in row]
    assert len(logged) == len(set(logged))  # no update is told twice


def test_max_minutes_ends_a_run(capfd, tmp_path):
    logdir = tmp_path / "run"
    budget = ["--env_frames", "1000000", "--train.eval_every", "1000000"]  # an evaluation writes a checkpoint too
    assert main([*SINGLE, "--logdir", str(logdir), *budget, "--max_minutes", "0.02"]) == 0
    assert "stopped (wall-clock limit)" in capfd.readouterr().out
    assert len(list((logdir / "checkpoints").iterdir())) == 1


def test_evaluate_prints_and_writes_its_figures(capsys, run, tmp_path):
    path = tmp_path / "deep" / "out.json"
    assert main(["evaluate", "--logdir", str(run), "--episodes", "2", "--seed", "4", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    found = json.loads(path.read_text())
    for mode in ("deterministic", "sample", "random"):
        assert found[mode]["returns"] == [55.0, 55.0]  # whoever acts: the reward counts the steps
        assert found[mode]["seeds"] == [4, 5]
        [line] = [line for line in out.splitlines() if line.startswith(f"{mode} ")]
        assert line.split()[1:5] == ["55.00", "[55.00,", "55.00]", "0.00"]
    assert main(["evaluate", "--logdir", str(run), "--episodes", "1"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["deterministic"]["std"] is None


def test_record_writes_videos(capsys, run, tmp_path):
    assert main(["record", "--logdir", str(run), "--out", str(tmp_path / "two.gif"), "--episodes", "2"]) == 0
    assert main(["record", "--logdir", str(run)]) == 0
    assert "return 55.00 in 10 agent_steps" in capsys.readouterr().out
    assert main(["record", "--logdir", str(run), "--dream"]) == 0
    assert "reconstruction" in capsys.readouterr().out
    for path in (tmp_path / "two.gif", run / "videos" / "record.mp4", run / "videos" / "dream.mp4"):
        assert path.stat().st_size > 1000


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian"], "'train'"),
        ([*DEBUG, "--task", "walker_wlak"], "'walker_walk'"),
        ([*DEBUG, "--task", ""], "task: got"),
        (["train", "--preset", "debgu"], "'debug'"),
        ([*DEBUG, "--replay.batch_siz", "4"], "'replay.batch_size'"),
        ([*DEBUG, "--resum"], "'resume'"),
        ([*DEBUG, "--replay.batch_size", "four"], "replay.batch_size"),
        ([*DEBUG, "--env_frames", "0"], "env_frames: got 0, expected a positive number"),
        ([*DEBUG, "--env_frames", "-5"], "env_frames: got -5"),
        ([*DEBUG, "--env_frames", "many"], "env_frames"),
        ([*DEBUG, "--env.render", "nice"], "env.render"),
        ([*DEBUG, "--algo", "dreamer"], "error: algo: got 'dreamer', expected one of 'aime', 'sac', 'ppo'\n"),
        ([*DEBUG, "--env_frames", "1.5"], "error: env_frames: got 1.5, expected a whole number\n"),
        ([*DEBUG, "--max_minutes", "0"], "max_minutes: got 0.0"),
        ([*DEBUG, "--max_minutes", "soon"], "error: max_minutes: got 'soon', expected a finite number\n"),
        ([*DEBUG, "--device", "tpu"], "device: got 'tpu'"),
        ([*DEBUG, "--replay.capacity_steps", "1000000000000"], "replay.capacity_steps"),
        ([*DEBUG, "--resume"], "no config.yaml in it"),
        ([*DEBUG, "surplus"], "surplus"),
        (["evaluate"], "no config.yaml in it"),
        (["evaluate", "--episodes", "0"], "episodes: got 0"),
        (["evaluate", "--episodes", "1.5"], "error: episodes: got 1.5, expected a whole number\n"),
        (["evaluate", "--seed", "one"], "error: seed: got 'one', expected a whole number\n"),
        (["record", "--size", "1e30"], "error: size: got 1e+30, expected a whole number\n"),
        (["evaluate", "--episods", "5"], "'episodes'"),
        (["evaluate", "surplus"], "surplus"),
        (["record"], "no config.yaml in it"),
        (["record", "--out", "video.avi"], "out: got 'video.avi'"),
        (["record", "--seed", "-1"], "seed: got -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch, argv, expected):
    monkeypatch.chdir(tmp_path)
    text = refused(capsys, *argv, "--logdir", str(tmp_path / "run"))
    assert expected in text
    assert list(tmp_path.iterdir()) == []


def test_no_command_shows_the_usage(capsys):
    assert main([]) == 2
    assert "usage: run_agent.py" in capsys.readouterr().out


def test_logdir_is_required_to_evaluate(capsys):
    assert "--logdir" in refused(capsys, "evaluate")


def test_no_gl_library(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("envs.rendering.probe", lambda backend, timeout: "no library")
    text = refused(capsys, *DEBUG, "--task", "cartpole_swingup", "--logdir", str(tmp_path / "run"))
    assert "libegl1" in text
    assert list(tmp_path.iterdir()) == []


def test_a_logdir_that_cannot_be_written(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert "is a file, expected a folder" in refused(capsys, *DEBUG, "--logdir", str(tmp_path / "file" / "run"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everywhere
    assert "is not writable" in refused(capsys, *DEBUG, "--logdir", str(tmp_path / "run"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_logdir_that_holds_another_run(capsys, run):
    before = files(run)
    command = ["train", "--logdir", str(run), "--env_frames", "900"]
    assert "seed: 0 -> 1" in refused(capsys, *command, "--seed", "1")
    assert "task: counting -> reaching" in refused(capsys, *command, "--task", "reaching")
    assert "preset: debug -> cpu" in refused(capsys, *command, "--preset", "cpu")
    text = refused(capsys, *command, "--resume", "--replay.batch_length=9", "--behavior.horizon", "9")
    assert "replay.batch_length: 8 -> 9" in text
    assert "behavior.horizon: 4 -> 9" in text
    assert files(run) == before


def test_damaged_checkpoints_and_config(capsys, tmp_path):
    logdir = tmp_path / "run"
    assert main([*SINGLE, "--logdir", str(logdir), "--env_frames", "110", "--quiet"]) == 0
    (checkpoint,) = (logdir / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-7])
    before = files(logdir)
    for argv in (["train", "--env_frames", "900"], ["evaluate"], ["record"]):
        text = refused(capsys, *argv, "--logdir", str(logdir))
        assert "cut short" in text
        assert checkpoint.name in text
    assert files(logdir) == before
    checkpoint.unlink()
    assert "no checkpoint in" in refused(capsys, "evaluate", "--logdir", str(logdir))
    (logdir / "config.yaml").write_text("task: [")
    assert "YAML" in refused(capsys, "train", "--logdir", str(logdir))


def test_ctrl_c_outside_training_is_130(capsys, monkeypatch, run):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.evaluation.episodes.evaluate", interrupt)
    assert main(["evaluate", "--logdir", str(run)]) == 130
    assert capsys.readouterr().err == "run_agent.py: interrupted\n"
