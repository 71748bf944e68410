"""What a run lacks ends it with one line or costs it little, and nothing that was finished is lost."""

import errno

import pytest
import torch

import run_agent
from agent import Trainer, make_config
from agent.config.files import load_config
from agent.learning.agent import Agent
from agent.run_folder.checkpoint import checkpoint_paths, load_newest
from agent.run_folder.logger import read_metrics
from agent.training.clocks import Every
from agent.training.verification import unequal_places
from benchmarks.reliability import injection

SETTINGS = {"env.num_envs": 1, "env_frames": 80, "replay.prefill_frames": 64, "train.eval_every": 72}
SETTINGS |= {"train.train_ratio": 4, "train.eval_episodes": 1, "train.video_frames": 0, "train.log_every": 2}
OPTIONS = [f"--{name}={value}" for name, value in SETTINGS.items()]


def train(logdir, *options):
    return run_agent.main(["train", "--preset=debug", "--task=reaching", f"--logdir={logdir}", *OPTIONS, *options])


def trainer(logdir, **changes):
    return Trainer(make_config("debug", "reaching", SETTINGS | changes), logdir, quiet=True)


def newest(logdir):
    return load_newest(logdir / "checkpoints")[0]


# ---------------------------------------------------------------- disks


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing happens to, and the files of its writes."""
    logdir = tmp_path_factory.mktemp("straight") / "run"
    with injection.full_disk(logdir, 10**9) as written:
        assert train(logdir, "--quiet") == 0
    return logdir, written


@pytest.mark.parametrize("kind", [".ep", ".pt", "metrics.jsonl", "progress.csv", "events", "config.yaml"])
def test_a_full_disk_ends_the_run_with_one_line_and_loses_nothing(tmp_path, straight, kind, capsys):
    """The disk is full from the middle one of a kind of writes on."""
    whole, written = straight
    names = [str(path.relative_to(whole)) for path in written]
    names = [name.replace(".partial", "") for name in names]  # what they are to become
    writes = [number for number, name in enumerate(names, 1) if kind in name]
    logdir = tmp_path / "run"
    with injection.full_disk(logdir, writes[len(writes) // 2]):
        status = train(logdir, "--quiet")
    error = capsys.readouterr().err
    assert status in (1, 2)
    assert error.startswith("run_agent.py: error: ")
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert str(logdir) in error
    if status == 1:
        assert "make room" in error
    assert not list(logdir.glob("checkpoints/.*.partial"))
    before = {path: path.read_bytes() for path in checkpoint_paths(logdir / "checkpoints")}
    assert train(logdir, "--quiet") == 0
    assert all(path.read_bytes() == data for path, data in before.items() if path.is_file())
    assert list(unequal_places(newest(whole), newest(logdir), "checkpoint")) == []
    rows = [[{k: v for k, v in row.items() if k not in ("wall_seconds", "updates_per_second")} for row in
             read_metrics(folder / "metrics.jsonl")] for folder in (whole, logdir)]  # fmt: skip
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.EDQUOT, "make room within the quota"), (errno.EROFS, "make its disk writable"), (errno.EIO, "fix that")],
)
def test_other_troubles_of_a_disk_say_what_to_do(tmp_path, straight, number, hint, capsys):
    logdir = tmp_path / "run"
    place = next(i for i, path in enumerate(straight[1], 1) if ".ep" in path.name)
    with injection.full_disk(logdir, place, number):
        assert train(logdir, "--quiet") == 1
    assert f"; {hint}, then restart with --resume" in capsys.readouterr().err


def test_a_video_that_cannot_be_written_costs_a_line(tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("agent.training.evaluator.record", fail)
    assert train(tmp_path, "--train.video_frames=5") == 0
    assert f"no video: {tmp_path / 'videos'}" in capsys.readouterr().out
    assert any("eval_return" in row for row in read_metrics(tmp_path / "metrics.jsonl"))


# ---------------------------------------------------------------- a GPU's memory


class SmallMemory(Agent):
    """Holds updates of at most `limit` chunks."""

    limit = 2

    def update(self, chunk):
        if len(chunk.reward) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().update(chunk)


def test_a_batch_that_does_not_fit_is_halved_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("agent.training.trainer.Agent", SmallMemory)
    assert train(tmp_path, "--replay.batch_size=4", "--train.train_ratio=8") == 0
    assert "is too small for updates of 4 x 8 frames; replay.batch_size is 2 from now on" in capsys.readouterr().out
    assert load_config(tmp_path / "config.yaml").replay.batch_size == 2
    payload = newest(tmp_path)
    frames = 2 * 8 * payload["agent"]["updates"]
    learning = payload["counters"]["agent_steps"] - SETTINGS["replay.prefill_frames"]
    assert frames == pytest.approx(8 * learning, abs=4 * 8)
    more = ["train", f"--logdir={tmp_path}", "--resume", "--quiet", "--env_frames=90"]
    assert run_agent.main(more) == 0  # and the run goes on so
    assert newest(tmp_path)["agent"]["updates"] - payload["agent"]["updates"] == pytest.approx(10 * 8 / 16, abs=1)


def test_a_batch_that_does_not_fit_after_that_ends_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("agent.training.trainer.Agent", SmallMemory)
    assert train(tmp_path, "--replay.batch_size=8", "--train.train_ratio=8", "--quiet") == 1
    error = capsys.readouterr().err
    assert (
        error
        == "run_agent.py: error: the GPU's memory is too small for updates of 4 x 8 frames; try replay.batch_size 2\n"
    )
    monkeypatch.undo()
    assert newest(tmp_path)["due"]["updates"] > 0
    assert run_agent.main(["train", f"--logdir={tmp_path}", "--resume", "--quiet", "--replay.batch_size=2"]) == 0


# ---------------------------------------------------------------- time


def test_checkpoints_that_take_long_come_seldom(tmp_path, monkeypatch):
    run = trainer(tmp_path, **{"train.checkpoint_minutes": 1})
    run.started = 0.0
    assert isinstance(run.checkpoint_clock, Every)
    run._collect()
    now = iter([100.0, 100.5, 200.0, 209.0])
    monkeypatch.setattr("agent.training.trainer.save_checkpoint", lambda *_: None)
    monkeypatch.setattr("agent.training.trainer.time.monotonic", lambda: next(now))
    monkeypatch.setattr("agent.training.trainer.Trainer.counters", lambda self: {"wall_seconds": 0.0})
    run._checkpoint()
    assert run.checkpoint_clock.interval == 60  # half a second is less than 2 % of a minute
    run._checkpoint()
    assert run.checkpoint_clock.interval == pytest.approx(9 / 0.02)
    monkeypatch.undo()
    run.close()
