"""A run that was stopped anywhere and goes on is, bit for bit, the run that was never stopped."""

import os
import signal

import pytest

from agent import Agent, Trainer, make_config
from agent.run_folder.checkpoint import load_newest
from replay import EpisodeStore
from tests.agent.training.payloads import assert_same, assert_same_run, lines

# Moving discs: frames depend on seeds and on every action. Episodes have 26 rows, and one ends while the run learns;
# the ring is full before. Two ticks make 3 updates due. Evaluations come at 60 (before any update), 120 and 126 frames.
SETTINGS = {"env_frames": 126, "replay.prefill_frames": 116, "replay.capacity_steps": 90, "train.train_ratio": 24}
SETTINGS |= {"train.eval_every": 60, "train.eval_episodes": 1, "train.video_frames": 0, "train.log_every": 7}


def config(num_envs, **changes):
    return make_config("debug", "reaching", SETTINGS | {"env.num_envs": num_envs} | changes)


def train(logdir, num_envs=1, resume=False, stop_at=None, **changes):
    """Train; where `stop_at` is given, a SIGTERM comes with that call of Agent.act or Agent.update."""
    calls = 0

    class Watched(Agent):
        def _note(self):
            nonlocal calls
            calls += 1
            if calls == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        def act(self, *arguments):
            self._note()
            return super().act(*arguments)

        def update(self, chunk):
            self._note()
            return super().update(chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.training.trainer.Agent", Watched)
        trainer = Trainer(config(num_envs, **changes), logdir, resume=resume, quiet=True)
        trainer.run()
    # Whatever else ends a run, a signal to pytest for example, shall not pass for a difference between two runs.
    assert trainer.stop_reason == ("" if stop_at is None else "SIGTERM")
    assert (trainer.has_failed, trainer.collector.restarts) == (False, 0)
    return trainer


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run for each number of environments."""
    folders = {num_envs: tmp_path_factory.mktemp(f"straight{num_envs}") for num_envs in (1, 2)}
    for num_envs, folder in folders.items():
        train(folder, num_envs)
    return folders


@pytest.mark.parametrize(("num_envs", "stops"), [(1, (3, 4, 12)), (2, (5, 40))])
def test_a_run_stopped_by_a_signal_goes_on_as_if_it_had_not_been(tmp_path, straight, num_envs, stops):
    """Stops in the middle of episodes, between the updates that a tick makes due, and during an evaluation."""
    owed, evaluations = set(), set()
    for i, stop_at in enumerate(stops):
        trainer = train(tmp_path, num_envs, resume=i > 0, stop_at=stop_at)
        owed.add(trainer.due.updates)
        evaluations.add(trainer.due.evaluation)
    assert max(owed) >= 1
    if num_envs == 1:
        assert 0 in owed
        assert evaluations == {True, False}
    train(tmp_path, num_envs, resume=True)
    assert_same_run(straight[num_envs], tmp_path)


@pytest.mark.parametrize(
    "switches",
    [
        {
            "world_model.perceiver_config.enabled": False,
            "replay.burn_in": 2,
            "optimizer.anneal": 0.8,
            "optimizer.average_collects": True,
        },
        {
            "world_model.attention_config.enabled": False,
            "world_model.overshoot": 3,
            "world_model.slow_config.every": 3,
            "replay.recency": 2.0,
            "behavior.every": 2,
        },
        {
            "world_model.max_components": 1,
            "world_model.encoder_config.frame_stack": 2,
            "world_model.encoder_config.motion_dim": 8,
            "world_model.prior_config.action_path": True,
            "world_model.decoder_config.resolutions": 2,
            "env.size": 96,
            "replay.shift": 4,
        },
        {"world_model.use_rgb": False, "optimizer.average_decay": 0.0, "behavior.target_std": 0.4},
        {"world_model.rgb_config.method": "balanced", "world_model.attention_config.train_fraction": 0.5},
    ],
    ids=lambda switches: " ".join(map(str, switches)),
)
def test_a_run_with_parts_switched_goes_on_too(tmp_path, switches):
    """Several parts at once; none of them turns off another's state."""
    changes = switches | {"env_frames": 124}
    train(tmp_path / "straight", **changes)
    assert train(tmp_path / "stopped", stop_at=9, **changes).agent.updates >= 5
    train(tmp_path / "stopped", resume=True, **changes)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_a_longer_budget_changes_no_update(tmp_path, straight):
    train(tmp_path, env_frames=122)
    train(tmp_path, resume=True)
    extra = [row for row in lines(tmp_path) if row not in lines(straight[1])]
    assert [row["env_frames"] for row in extra if "eval_return" in row] == [122]  # evaluated where it ended
    found, expected = (load_newest(logdir / "checkpoints")[0] for logdir in (tmp_path, straight[1]))
    assert_same(found["agent"], expected["agent"])
    assert_same(found["replay"], expected["replay"])


def test_a_killed_run_does_again_what_came_after_its_last_checkpoint(tmp_path, straight, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("agent.training.trainer.Trainer._checkpoint", die)
        with pytest.raises(Killed):
            train(tmp_path)
    assert not list(tmp_path.glob("checkpoints/*.pt"))
    assert len(EpisodeStore(tmp_path / "episodes")) > 0
    train(tmp_path)
    assert_same_run(straight[1], tmp_path)


def test_another_number_of_environments_begins_new_episodes(tmp_path):
    first = train(tmp_path, 1, stop_at=9)
    rows = len(first.replay)
    second = train(tmp_path, 2, resume=True)
    assert second.env_frames >= SETTINGS["env_frames"]
    assert len(second.replay) >= min(rows, SETTINGS["replay.capacity_steps"])
    episodes = list(EpisodeStore(tmp_path / "episodes").load_all())
    starts = {episode.image[0].tobytes() for episode in episodes}
    assert len(starts) == len(episodes)  # no episode's first frame comes twice: numbers go on
