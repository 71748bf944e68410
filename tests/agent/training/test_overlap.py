"""Environments that step while the learner updates, and a replay in a file, change no number of a run."""

import json

import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from agent import Agent, Trainer, make_config
from envs.workers import make_workers
from tests.agent.training.payloads import CLOCKS, assert_same


class RecordingAgent(Agent):
    """Keeps every chunk that it learns from and every metric that came of it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def update(self, chunk):
        metrics = super().update(chunk)
        self.seen.append(({name: field.clone() for name, field in chunk.fields().items()}, metrics))
        return metrics


def one_after_the_other(makers):
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)


def run(logdir, monkeypatch, make_envs=make_workers, memmap=False):
    monkeypatch.setattr("envs.factory.make_workers", make_envs)
    monkeypatch.setattr("agent.training.trainer.Agent", RecordingAgent)
    # Moving discs: frames depend on seeds and on every action. One or two updates are due at a tick.
    changes = {"env_frames": 146, "replay.memmap": memmap, "replay.prefill_frames": 120}
    changes |= {"train.train_ratio": 12, "train.eval_every": 10_000, "train.video_frames": 0}
    trainer = Trainer(make_config("debug", "reaching", changes), logdir, quiet=True)
    kind = type(trainer.collector.driver._vector_env)
    trainer.run()
    lines = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    return trainer, kind, [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def test_a_run_is_the_same_bit_for_bit(tmp_path, monkeypatch):
    """Of environments one after the other and a replay in memory, and of neither."""
    first, is_async, lines = run(tmp_path / "first", monkeypatch, memmap=True)
    second, kind, others = run(tmp_path / "second", monkeypatch, make_envs=one_after_the_other)
    assert (is_async, kind) == (AsyncVectorEnv, SyncVectorEnv)
    assert len(first.agent.seen) == len(second.agent.seen) > 12
    assert not torch.equal(first.agent.seen[0][0]["image"], first.agent.seen[-1][0]["image"])
    for (chunk, metrics), (other_chunk, other_metrics) in zip(first.agent.seen, second.agent.seen, strict=True):
        assert_same(chunk, other_chunk)
        assert_same(metrics, other_metrics)
    assert_same(first.agent.model.state_dict(), second.agent.model.state_dict())
    assert lines == others
