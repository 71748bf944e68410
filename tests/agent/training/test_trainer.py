"""The loop: the counting trick through driver, replay and trainer; budgets, ratios, resuming, stopping."""

import json
import os
import signal

import numpy as np
import pytest

import run_agent
from agent import Agent, Trainer, load, make_config
from agent.evaluation.episodes import evaluate
from agent.run_folder.checkpoint import load_newest
from agent.training.evaluator import EVALUATION_SEED
from envs import make_env
from envs.counting import decode_frame

SETTINGS = {"replay.prefill_frames": 40, "train.eval_every": 10_000, "train.video_frames": 0, "env.num_envs": 1}


def run(logdir, resume=False, **overrides):
    trainer = Trainer(make_config("debug", overrides=SETTINGS | overrides), logdir, resume=resume, quiet=True)
    trainer.run()
    return trainer


def lines(logdir):
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


class SpyAgent(Agent):
    """Keeps the chunks that it learns from."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.chunks = []

    def update(self, chunk):
        self.chunks.append(chunk)
        return super().update(chunk)


class IdleAgent(SpyAgent):
    """Keeps the chunks too, and learns from the first alone."""

    def update(self, chunk):
        if not self.chunks:
            self.metrics = super().update(chunk)
        else:
            self.chunks.append(chunk)
            self.updates += 1
        return self.metrics


def test_counted_frames_reach_the_learner_in_order(tmp_path, monkeypatch):
    """The frame encodes (worker, episode, step): every row the learner sees must fit the row before it."""
    monkeypatch.setattr("agent.training.trainer.Agent", IdleAgent)
    trainer = run(tmp_path, **{"env_frames": 200, "env.num_envs": 2})
    chunks = trainer.agent.chunks
    assert len(chunks) > 10
    crossings = 0
    for chunk in chunks:
        worker, episode, step = (np.asarray(x) for x in decode_frame(chunk.image.numpy()))
        first, last = chunk.is_first.numpy(), chunk.is_last.numpy()
        assert (first == (step == 0)).all()
        np.testing.assert_array_equal(chunk.reward.numpy(), step)  # CountingEnv pays its step index
        inside = ~first[:, 1:]
        assert (step[:, 1:] - step[:, :-1])[inside].tolist() == [1] * int(inside.sum())
        for values in (worker, episode):  # within an episode nothing else mixes in
            assert (values[:, 1:] == values[:, :-1])[inside].all()
        assert (first[:, 1:] == last[:, :-1]).all()
        assert (chunk.action.numpy()[last] == 0).all()
        assert not chunk.is_terminal.any()  # a time limit is no end of the world
        crossings += int(first[:, 1:].sum())
    assert crossings > 0


def test_budget_ratio_and_files(tmp_path):
    changes = {"env.num_envs": 2, "env_frames": 100, "replay.prefill_frames": 50, "train.train_ratio": 4}
    trainer = run(tmp_path, **changes)
    assert 100 <= trainer.env_frames <= 101  # two environments step at once
    assert trainer.collector.agent_steps == trainer.env_frames  # action repeat 1
    replay = trainer.config.replay
    due = 4 * (trainer.collector.agent_steps - 50) / (replay.batch_size * replay.batch_length)
    assert trainer.agent.updates == pytest.approx(due, abs=1.0)
    for name in ("config.yaml", "metrics.jsonl", "progress.csv", "tensorboard", "checkpoints", "episodes"):
        assert (tmp_path / name).exists(), name
    counters = lines(tmp_path)[-1]
    assert list(counters)[:4] == ["env_frames", "agent_steps", "updates", "wall_seconds"]
    assert any("recon_loss" in line for line in lines(tmp_path))
    assert any("eval_return" in line for line in lines(tmp_path))


def test_a_longer_budget_goes_on_with_replay_and_counters(tmp_path):
    first = run(tmp_path, env_frames=80)
    rows, updates, weights = len(first.replay), first.agent.updates, first.agent.model.state_dict()
    config = make_config("debug", overrides=SETTINGS | {"env_frames": 130})
    second = Trainer(config, tmp_path, resume=True, quiet=True)
    assert (second.env_frames, second.agent.updates, len(second.replay)) == (first.env_frames, updates, rows)
    for name, value in second.agent.model.state_dict().items():
        assert (value == weights[name]).all(), name
    second.run()
    assert second.env_frames >= 130
    assert second.agent.updates > updates
    frames = [line["env_frames"] for line in lines(tmp_path)]
    assert frames == sorted(frames)


def test_a_loaded_agent_acts_like_the_trained_one(tmp_path):
    trainer = run(tmp_path, env_frames=80)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    with trainer.agent.average.swapped():
        expected, _ = trainer.agent.predict(images, deterministic=True)
    found, _ = load(tmp_path, device="cpu").predict(images, deterministic=True)
    np.testing.assert_array_equal(found, expected)


def test_an_evaluation_plays_with_the_average_of_the_weights(tmp_path):
    """Its figure is that of the loaded agent, which has the average, and not that of the last weights."""
    changes = {"env_frames": 80, "train.train_ratio": 4, "optimizer.average_decay": 0.9}
    config = make_config("debug", "reaching", SETTINGS | changes)
    trainer = Trainer(config, tmp_path, quiet=True)
    trainer.run()
    logged = [line["eval_return"] for line in lines(tmp_path) if "eval_return" in line][-1]
    episodes, seed = config.train.eval_episodes, EVALUATION_SEED + config.seed
    assert evaluate(load(tmp_path, device="cpu"), episodes, seed).mean == logged
    assert evaluate(trainer.agent, episodes, seed).mean != logged


def test_learning_rates_fall_with_the_frames_of_the_run(tmp_path):
    trainer = run(tmp_path, **{"env_frames": 80, "optimizer.anneal": 0.5, "train.final_updates": 1})
    group = trainer.agent.model_learner.optimizer.param_groups[0]
    assert group["lr"] == pytest.approx(0.1 * trainer.config.optimizer.model_lr)


def test_final_updates_come_after_the_last_frame_and_before_its_evaluation(tmp_path):
    plain = run(tmp_path / "plain", env_frames=70)
    trainer = run(tmp_path / "final", **{"env_frames": 70, "train.final_updates": 3})
    assert (trainer.env_frames, trainer.agent.updates) == (plain.env_frames, plain.agent.updates + 3)
    last = lines(tmp_path / "final")[-1]
    assert "eval_return" in last
    assert last["updates"] == trainer.agent.updates
    longer = run(tmp_path / "final", resume=True, **{"env_frames": 100, "train.final_updates": 0})
    straight = run(tmp_path / "straight", env_frames=100)
    assert longer.agent.updates == straight.agent.updates + 3  # the train ratio does not count them


def test_final_updates_may_be_asked_for_when_the_budget_is_spent(tmp_path):
    given = {"env_frames": 60, "train.final_updates": 2}
    before = run(tmp_path / "final", **given)
    options = ["train", f"--logdir={tmp_path / 'final'}", "--resume", "--quiet"]
    assert run_agent.main([*options, "--train.final_updates=4"]) == 0
    payload = load_newest(tmp_path / "final" / "checkpoints")[0]
    assert payload["counters"]["updates"] == before.agent.updates + 2
    assert payload["counters"]["env_frames"] == before.env_frames
    assert lines(tmp_path / "final")[-1]["updates"] == before.agent.updates + 2  # evaluated again
    count = len(lines(tmp_path / "final"))
    assert run_agent.main([*options, "--train.final_updates=4"]) == 0  # nothing is left to do
    assert len(lines(tmp_path / "final")) == count


def test_an_environment_that_fails_in_an_evaluation_costs_that_evaluation_alone(tmp_path, monkeypatch):
    made = []

    def fail(action):
        raise FloatingPointError("the physics\ndiverged")

    def make(*arguments, **options):
        made.append(make_env(*arguments, **options))
        if len(made) == 1:
            made[0].step = fail
        return made[-1]

    told = []
    monkeypatch.setattr("agent.evaluation.episodes.make_env", make)
    monkeypatch.setattr(Trainer, "note", lambda self, line: told.append(line))
    trainer = run(tmp_path, **{"env_frames": 80, "train.eval_every": 60})
    assert trainer.env_frames == 80
    assert not trainer.has_failed
    assert len(made) == 2
    assert [row["env_frames"] for row in lines(tmp_path) if "eval_return" in row] == [80]
    assert told == ["no evaluation at 60 env_frames: the environment failed (FloatingPointError: the physics diverged)"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_after_the_update_with_a_checkpoint(tmp_path, monkeypatch, number):
    class Stopping(SpyAgent):
        def update(self, chunk):
            if self.updates == 3:
                os.kill(os.getpid(), number)
            return super().update(chunk)

    monkeypatch.setattr("agent.training.trainer.Agent", Stopping)
    handler = signal.getsignal(number)
    trainer = run(tmp_path, env_frames=100_000)
    assert trainer.stop_reason == number.name
    assert trainer.agent.updates == 4
    assert load_newest(tmp_path / "checkpoints")[0]["agent"]["updates"] == 4
    assert signal.getsignal(number) is handler


def test_max_minutes_ends_with_a_checkpoint(tmp_path):
    config = make_config("debug", overrides=SETTINGS | {"env_frames": 100_000})
    trainer = Trainer(config, tmp_path, max_minutes=1 / 60, quiet=True)
    trainer.run()
    assert trainer.stop_reason == "wall-clock limit"
    payload, _ = load_newest(tmp_path / "checkpoints")
    assert payload["counters"]["env_frames"] == trainer.env_frames


def test_a_replay_that_cannot_fit_is_refused_before_anything_is_written(tmp_path):
    config = make_config("debug", overrides=SETTINGS | {"replay.capacity_steps": 10**12})
    expected = r"replay needs .* of memory, .* set replay.memmap to true, or replay.capacity_steps to \d+ or less"
    with pytest.raises(ValueError, match=expected):
        Trainer(config, tmp_path / "run", quiet=True)
    config = make_config("debug", overrides=SETTINGS | {"replay.capacity_steps": 10**12, "replay.memmap": True})
    with pytest.raises(ValueError, match=r"replay needs .* of disk in .* set replay.capacity_steps to \d+ or less"):
        Trainer(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_what_a_run_left_that_never_reached_a_checkpoint_stays_out(tmp_path):
    first = run(tmp_path, env_frames=60)
    rows = len(first.replay)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    second = run(tmp_path, env_frames=60)
    assert len(second.replay) == rows
    third = Trainer(second.config, tmp_path, resume=True, quiet=True)
    third.close()
    assert len(third.replay) == rows


def test_metrics_after_a_resume_are_means_of_what_was_summed(tmp_path):
    """Resumed between two lines of metrics, fewer updates are summed for the next line: the std must stay a std."""
    quick = {"train.log_every": 7, "train.train_ratio": 4}
    first = run(tmp_path, env_frames=90, **quick)
    assert first.agent.updates % 7 != 0
    run(tmp_path, resume=True, env_frames=130, **quick)
    stds = [line["actor_std"] for line in lines(tmp_path) if "actor_std" in line]
    assert max(stds) < 1.2 * min(stds)


def test_a_run_that_ends_at_an_evaluation_evaluates_once(tmp_path):
    run(tmp_path, **{"env_frames": 100, "train.eval_every": 50})
    frames = [line["env_frames"] for line in lines(tmp_path) if "eval_return" in line]
    assert frames == sorted(set(frames))
    assert frames[-1] == 100
