"""Evaluations and videos cost a run nothing but themselves, and what nobody expected leaves a checkpoint."""

import sys

import pytest

import run_agent
from agent import Trainer
from agent.learning.agent import Agent
from agent.run_folder.checkpoint import checkpoint_paths, load_newest
from agent.run_folder.logger import read_metrics
from agent.training.verification import unequal_places
from benchmarks.reliability import injection

SETTINGS = {"env.num_envs": 1, "env_frames": 66, "replay.prefill_frames": 52, "train.eval_every": 60}
SETTINGS |= {"train.train_ratio": 4, "train.eval_episodes": 1, "train.video_frames": 5}
OPTIONS = [f"--{name}={value}" for name, value in SETTINGS.items()]


def train(logdir, *options):
    return run_agent.main(["train", "--preset=debug", "--task=reaching", f"--logdir={logdir}", *OPTIONS, *options])


def differences(left, right):
    newest = [load_newest(logdir / "checkpoints")[0] for logdir in (left, right)]
    return list(unequal_places(*newest, "checkpoint"))


def evaluated(logdir):
    return [row["env_frames"] for row in read_metrics(logdir / "metrics.jsonl") if "eval_return" in row]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing happens to: evaluated at 60 env_frames and at the budget's end, with a video each."""
    logdir = tmp_path_factory.mktemp("straight") / "run"
    assert train(logdir, "--quiet") == 0
    assert evaluated(logdir) == [60, 66]
    assert [path.name for path in sorted((logdir / "videos").iterdir())] == ["000000060.mp4", "000000066.mp4"]
    return logdir


@pytest.mark.parametrize("method", ["make", "reset", "step"])
def test_an_evaluation_that_fails_costs_itself_and_one_line(tmp_path, straight, method, capsys):
    """The first works, its video does not, and neither does the last evaluation."""
    with injection.failing_evaluation(method, since=2):
        assert train(tmp_path) == 0
    out = capsys.readouterr().out
    told = [line for line in out.splitlines() if line.startswith("no ")]
    assert [line.split(":")[0] for line in told] == ["no video", "no evaluation at 66 env_frames"]
    assert all("RuntimeError: injected: only one instance may exist" in line for line in told)
    assert evaluated(tmp_path) == [60]
    assert differences(straight, tmp_path) == []


def test_the_next_evaluation_tries_again(tmp_path, straight, monkeypatch, capsys):
    import agent.evaluation.episodes as evaluation

    made, real = [], evaluation.make_env

    def make(*arguments, **options):
        made.append(1)
        if len(made) == 1:
            sys.exit("an environment that ends the program")
        return real(*arguments, **options)

    monkeypatch.setattr(evaluation, "make_env", make)
    assert train(tmp_path) == 0
    assert "no evaluation at 60 env_frames: SystemExit: an environment that ends" in capsys.readouterr().out
    assert evaluated(tmp_path) == [66]
    assert differences(straight, tmp_path) == []


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("render_frame", "no video: the environment failed (RuntimeError: injected: only one instance may exist)"),
        ("close", "closing an environment failed (RuntimeError: injected: only one instance may exist)"),
    ],
)
def test_an_evaluation_stands_though_its_video_or_its_end_fails(tmp_path, straight, method, line, capsys, caplog):
    with injection.failing_evaluation(method, since=1):
        assert train(tmp_path) == 0
    assert (capsys.readouterr().out + caplog.text).count(line) == (2 if method == "render_frame" else 4)
    assert evaluated(tmp_path) == [60, 66]
    assert differences(straight, tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "names", "line"),
    [
        ("missing", ["000000060.gif", "000000066.gif"], "000000060.gif is written by Pillow ("),
        ("no libx264", ["000000060.mp4", "000000066.mp4"], "000000060.mp4 is written by libopenh264 (libx264 failed"),
        ("killed", [], "no video: libx264 failed (SIGKILL)"),
    ],
)
def test_without_its_encoder_a_run_is_the_same(tmp_path, straight, fault, names, line, capsys, caplog):
    with injection.lost_encoder(fault):
        assert train(tmp_path) == 0
    assert line in capsys.readouterr().out + caplog.text
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == names
    assert evaluated(tmp_path) == [60, 66]
    assert differences(straight, tmp_path) == []


def test_what_nobody_expected_leaves_a_checkpoint_and_its_traceback(tmp_path, straight, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "_evaluate", lambda self: 1 // 0)
    assert train(tmp_path, "--quiet") == 1
    kept = tmp_path / "faults" / "traceback.txt"
    error = "run_agent.py: error: ZeroDivisionError: integer division or modulo by zero; its traceback is in"
    assert capsys.readouterr().err == f"{error} {kept}\n"
    assert "_evaluate()" in kept.read_text()
    assert load_newest(tmp_path / "checkpoints")[0]["counters"]["env_frames"] == 60
    monkeypatch.undo()
    assert train(tmp_path, "--quiet") == 0
    assert evaluated(tmp_path) == [60, 66]
    assert differences(straight, tmp_path) == []


def test_in_the_middle_of_an_update_no_checkpoint_is_written(tmp_path, straight, monkeypatch, capsys):
    """Half an update is no state: the run goes on from before it, and comes to the same."""
    real = Agent.update

    def update(self, *arguments):
        metrics = real(self, *arguments)
        if self.updates == 1:
            raise RuntimeError("half an update")
        return metrics

    monkeypatch.setattr(Agent, "update", update)
    assert train(tmp_path, "--quiet") == 1
    assert "RuntimeError: half an update; its traceback is in" in capsys.readouterr().err
    assert checkpoint_paths(tmp_path / "checkpoints") == []
    monkeypatch.undo()
    assert train(tmp_path, "--quiet") == 0
    assert differences(straight, tmp_path) == []
