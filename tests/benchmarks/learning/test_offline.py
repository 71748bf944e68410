"""offline: cloning sees the stacks that a baseline plays with and copies what was done; all three learners play."""

import json

import numpy as np
import pytest
import torch

from agent import make_config
from agent.run_folder.datasets import About, FolderWriter
from agent.stable_baselines.baselines import Baseline
from benchmarks.learning import offline
from replay.rows import Episode

CONFIG = make_config("debug", "reaching", {"device": "cpu"})


def shown(brightness: np.ndarray) -> Episode:
    """An episode of even frames whose action at each row is a function of the brightness at the row before."""
    length, rows = len(brightness), np.arange(len(brightness))
    image = np.broadcast_to(brightness[:, None, None, None], (length, 64, 64, 3)).astype(np.uint8)
    before = np.concatenate([[0], brightness[:-1]]) / 255
    action = (2 * before[:, None] - 1).astype(np.float32)
    action[-1] = 0
    reward = np.where(rows > 0, brightness.mean() / 255, 0).astype(np.float32)
    return Episode(image, reward, rows == 0, rows == length - 1, np.zeros(length, bool), action)


def episodes(count: int, length: int = 12) -> list[Episode]:
    random = np.random.default_rng(0)
    return [shown(random.integers(0, 256, length)) for _ in range(count)]


def test_stacks_are_those_that_a_baseline_plays_with(monkeypatch):
    player = object.__new__(Baseline)
    player.config, player._choices, seen = CONFIG, 0, []

    class Algorithm:
        def predict(self, stacks, deterministic):
            seen.append(stacks)
            return np.zeros((len(stacks), 1)), None

    player.algorithm = Algorithm()
    played = episodes(2, 7)
    for episode in played:
        state = player.initial_state(1)
        for t in range(len(episode.reward) - 1):
            _, state = player.act(episode.image[t : t + 1], episode.is_first[t : t + 1], state, "deterministic")
    stacks, actions = offline.Stacks(played, is_discrete=False).batch(torch.arange(12))
    np.testing.assert_array_equal(stacks.numpy(), np.concatenate(seen))
    np.testing.assert_array_equal(actions.numpy(), np.concatenate([e.action[:-1] for e in played]))


def test_a_clone_does_what_was_done_and_the_best_weights_play(monkeypatch):
    monkeypatch.setattr(offline, "BATCH", 32)
    monkeypatch.setattr(offline, "RATE", 1e-3)
    copied = offline.copy(CONFIG, episodes(20), is_discrete=False, batches=100)
    untrained = offline.copy(CONFIG, episodes(20), is_discrete=False, batches=0)
    assert copied.log_likelihood > untrained.log_likelihood + 0.2
    new = shown(np.random.default_rng(1).integers(0, 256, 12))
    state, done = copied.player.initial_state(1), []
    for t in range(11):
        action, state = copied.player.act(new.image[t : t + 1], new.is_first[t : t + 1], state, "deterministic")
        done.append(action[0])
    error = np.square(np.array(done) - new.action[:-1]).mean()
    assert error < 0.25 * new.action[:-1].var()


def test_all_learn_from_the_picked_episodes_and_play(tmp_path, capsys):
    writer = FolderWriter(tmp_path / "data", About.of(CONFIG, "made up"))
    for episode in episodes(9, 26):
        writer.add(episode)
    options = ["--logdir", str(tmp_path / "runs"), "--preset", "debug", "--pick", "5", "--updates", "2"]
    options += ["--copies", "1", "--episodes", "2", "--json", str(tmp_path / "out.json")]
    assert offline.main([str(tmp_path / "data"), *options]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["learned"] for row in report["results"]] == ["the data", "copy", "copy_best", "aime"]
    returns = [float(e.reward.sum()) for e in episodes(9, 26)][::2]
    assert report["results"][0]["mean"] == pytest.approx(np.mean(returns), rel=1e-5)
    assert report["run"]["episodes"] == 5
    assert offline.main([str(tmp_path / "data"), *options, "--pick", "4"]) == 2
    assert "pick: got 4, expected 5 as in" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 10])
def test_a_number_of_episodes_that_cannot_be_picked_is_one_line(count, tmp_path, capsys):
    writer = FolderWriter(tmp_path / "data", About.of(CONFIG, "made up"))
    for episode in episodes(9, 26):
        writer.add(episode)
    assert offline.main([str(tmp_path / "data"), "--logdir", str(tmp_path / "runs"), "--pick", str(count)]) == 2
    assert f"pick: got {count}, expected from 2 to the 9 episodes" in capsys.readouterr().err
