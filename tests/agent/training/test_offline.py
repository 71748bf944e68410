"""Learning from recorded episodes: no environment is stepped, then one may be; stops anywhere change nothing."""

import os
import signal

import numpy as np
import pytest

from agent import Agent, Trainer, load, make_config
from agent.run_folder.checkpoint import load_newest
from agent.run_folder.datasets import About, FolderWriter, open_dataset
from agent.training.due_work import DueWork, check_learnable, is_over, offline_left, online_updates
from replay import EpisodeStore
from replay.rows import check_episode
from tests.agent.training.payloads import assert_same_run, lines
from tests.replay.replay_rows import make_episode

SETTINGS = {"train.offline_updates": 7, "train.video_frames": 0, "train.eval_episodes": 1, "train.log_every": 3}
SETTINGS |= {"env.num_envs": 1}
SETTINGS |= {
    "train.train_ratio": 8,
    "train.eval_every": 8,
}  # 2 env_frames an update, 4 updates an evaluation


def recorded(folder, lengths=(12, 9)):
    """Episodes of `counting`'s shapes with frames of 64 pixels, without an environment."""
    writer = FolderWriter(folder, About(task="counting", action_repeat=1, render="fast", policy="made"))
    random = np.random.default_rng(0)
    for length in lengths:
        episode = make_episode(length)
        image = random.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)
        check_episode(episode._replace(image=image))
        writer.add(episode._replace(image=image))
    return open_dataset(str(folder))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("data") / "made")


def config(dataset, **changes):
    noted = {"env_frames": 0, "offline_data": dataset.name}
    return make_config("debug", "counting", SETTINGS | noted | changes)


def train(logdir, dataset, resume=False, stop_at=None, **changes):
    """Train; where `stop_at` is given, a SIGTERM comes with that update."""

    class Watched(Agent):
        def update(self, chunk):
            if self.updates == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().update(chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.training.trainer.Agent", Watched)
        source = None if resume else dataset
        trainer = Trainer(config(dataset, **changes), logdir, resume=resume, quiet=True, dataset=source)
        trainer.run()
    return trainer


@pytest.fixture(scope="module")
def straight(tmp_path_factory, dataset):
    """An offline run, and one that goes on to play."""
    folders = [tmp_path_factory.mktemp("straight") / str(frames) for frames in (0, 16)]
    for folder, frames in zip(folders, (0, 16), strict=True):
        train(folder, dataset, env_frames=frames)
    return folders


def test_nothing_is_stepped_and_evaluations_come_between_updates(straight, dataset, monkeypatch):
    rows = lines(straight[0])
    assert {(row["env_frames"], row["agent_steps"]) for row in rows} == {(0, 0)}
    assert [row["updates"] for row in rows if "eval_return" in row] == [4, 7]
    assert not any("train_return" in row for row in rows)
    stored = list(EpisodeStore(straight[0] / "episodes").load_all())
    for ours, theirs in zip(stored, dataset.read(), strict=True):
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x, y)
    assert load(straight[0]).updates == 7


def test_a_task_that_cannot_be_made_is_learned_all_the_same(tmp_path, capsys):
    folder = tmp_path / "data"
    writer = FolderWriter(folder, About())
    writer.add(make_episode(20)._replace(image=np.zeros((20, 64, 64, 3), np.uint8)))
    trainer = train(tmp_path / "run", open_dataset(str(folder)), task="robot arm", **{"train.offline_updates": 2})
    assert (trainer.agent.updates, trainer.agent.action_dim, trainer.stop_reason) == (2, 2, "")
    assert not any("eval_return" in row for row in lines(tmp_path / "run"))


@pytest.mark.parametrize("stop_at", [2, 4])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, dataset, straight, stop_at):
    """Between the updates before an evaluation, and after the one that it followed."""
    assert train(tmp_path, dataset, stop_at=stop_at).stop_reason == "SIGTERM"
    assert train(tmp_path, dataset, resume=True).stop_reason == ""
    assert_same_run(straight[0], tmp_path)


def test_playing_later_is_playing_at_once(tmp_path, dataset, straight):
    """The offline run, continued with a budget of env_frames, is the run that had it from the start."""
    train(tmp_path, dataset)
    trainer = train(tmp_path, dataset, resume=True, env_frames=16)
    assert trainer.env_frames == 16
    assert trainer.agent.updates == 7 + 8
    assert_same_run(straight[1], tmp_path)
    assert len(trainer.replay) + trainer.replay.num_staged > dataset.num_rows


def test_the_agent_plays_from_the_first_frame_on(straight, dataset):
    """The prefill's random actions are for replays that are empty."""
    rows = lines(straight[1])
    first = min(row["updates"] for row in rows if row["env_frames"] > 0)
    assert first >= 7
    assert make_config("debug").replay.prefill_frames > 16


def test_more_updates_are_made_later_but_not_after_playing(tmp_path, dataset):
    train(tmp_path, dataset)
    assert train(tmp_path, dataset, resume=True, **{"train.offline_updates": 9}).agent.updates == 9
    payload = load_newest(tmp_path / "checkpoints")[0]
    assert is_over(payload, config(dataset, **{"train.offline_updates": 9}))
    assert not is_over(payload, config(dataset, **{"train.offline_updates": 10}))
    assert not is_over(payload, config(dataset, env_frames=10))
    assert offline_left(config(dataset, env_frames=10), 1, 3) == 0


def test_due_work_by_hand(dataset):
    """Portions of 100, cut where an evaluation comes: 10,000 env_frames x 16 / 128 = 1,250 updates."""
    changes = {"train.offline_updates": 1300, "offline_data": "x", "env_frames": 4000}
    due = DueWork(make_config("cpu", "walker_walk", changes))
    portions, updates = [], 0
    while due.add_offline(0, updates):
        portions.append((due.updates, due.evaluation))
        updates += due.updates
        due.updates = 0
        due.finish_evaluation(0)
    assert portions == [(100, False)] * 12 + [(50, True), (50, True)]
    assert due.progress(0, 1300) == pytest.approx(1300 / (1300 + 500))  # 4,000 env_frames are 500 updates
    assert due.progress(4000, 1800) == 1
    assert not due.is_over(0, 1300)
    assert DueWork(make_config("cpu", "walker_walk")).progress(250, 31) == 250 / 100_000
    assert online_updates(make_config("cpu", "walker_walk")) == 12_250  # of (100,000 - 2,000) env_frames


def test_updates_without_episodes_are_refused():
    with pytest.raises(ValueError, match=r"train.offline_updates: got 3, expected 0 without --offline"):
        check_learnable(make_config("debug", overrides={"train.offline_updates": 3}))
    with pytest.raises(ValueError, match=r"env_frames: got 0, expected a positive number, or train.offline_updates"):
        check_learnable(make_config("debug", overrides={"env_frames": 0}))
    with pytest.raises(ValueError, match="env_frames: got 0, expected a positive number"):
        make_config("debug", overrides={"env_frames": 0, "algo": "ppo"})


def test_the_name_of_a_dataset_without_its_episodes_is_refused(tmp_path, dataset):
    with pytest.raises(ValueError, match=r"dataset: got it without config.offline_data or the reverse"):
        Trainer(config(dataset), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_other_actions_than_the_task_has_are_refused_before_anything_is_written(tmp_path):
    writer = FolderWriter(tmp_path / "data", About())
    episode = make_episode(20)._replace(image=np.zeros((20, 64, 64, 3), np.uint8), action=np.zeros((20, 3), np.float32))
    writer.add(episode)
    found = open_dataset(str(tmp_path / "data"))
    with pytest.raises(ValueError, match="got episodes with 3 action dimensions, expected 2 action dimensions"):
        Trainer(config(found, env_frames=16), tmp_path / "run", quiet=True, dataset=found)
    assert not (tmp_path / "run").exists()
