"""Data through the command line: collect, dataset, train --offline; whatever does not fit is one line."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.evaluation.recorded import NoisyPlayer
from agent.run_folder.datasets import open_dataset
from envs import make_env
from replay.episodes import episode_paths
from run_agent import main

needs_minari = pytest.mark.skipif(find_spec("h5py") is None, reason="needs the extra `data`")
RANDOM = ["collect", "--task=counting", "--preset=debug"]
SHORT = ["--preset=debug", "--train.offline_updates=2", "--train.video_frames=0", "--train.eval_episodes=1", "--quiet"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two episodes of random actions."""
    path = tmp_path_factory.mktemp("collected") / "random"
    assert main([*RANDOM, "--episodes=2", "--seed=5", f"--out={path}"]) == 0
    return path


def refused(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_random_episodes_and_what_is_said_of_them(data):
    found = json.loads((data / "dataset.json").read_text())
    assert found["about"] == {
        "task": "counting",
        "action_repeat": 1,
        "render": "fast",
        "camera": None,
        "kwargs": {},
        "wrappers": {},
        "policy": "random",
    }
    assert (found["size"], found["action_dim"]) == (64, 2)
    assert [entry["seed"] for entry in found["episodes"]] == [5, 6]
    assert [entry["return"] for entry in found["episodes"]] == [55, 55]  # CountingEnv pays 1 + 2 + ... + 10
    first, second = open_dataset(str(data)).read()
    image, _ = make_env("counting", action_repeat=1).reset(seed=5)
    np.testing.assert_array_equal(first.image[0], image)
    assert first.reward.tolist() == list(range(11))
    assert np.abs(first.action[:-1]).std() > 0.2
    assert (first.action[0] != second.action[0]).any()


def test_an_agent_and_a_noisy_one(finished_run, folder):
    for policy in ("agent", "noisy"):
        words = ["--episodes=1", f"--policy={policy}", "--mode=sample", f"--out={folder / policy}"]
        assert main(["collect", f"--logdir={finished_run}", *words]) == 0
    (plain,), (noisy,) = (list(open_dataset(str(folder / policy)).read()) for policy in ("agent", "noisy"))
    assert 0.1 < (plain.action - noisy.action)[:3].std() < 0.6
    assert open_dataset(str(folder / "noisy")).about.policy == f"run {finished_run.name}, sample, noise 0.3"


class Still:
    """A player that always does the same."""

    def initial_state(self, num_envs):
        return 7

    def act(self, images, is_first, state, mode):
        return np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (len(images), 1)), state


@pytest.mark.parametrize("is_discrete", [True, False])
def test_noise_by_its_statistics(is_discrete):
    images = np.zeros((4000, 1, 1, 3), np.uint8)
    action, state = NoisyPlayer(Still(), 0.3, is_discrete, 0).act(images, np.ones(4000, bool), 7, "sample")
    assert (state, action.dtype, action.shape) == (7, np.float32, (4000, 3))
    if is_discrete:
        assert (action.sum(-1) == 1).all()
        assert action[:, 0].mean() == pytest.approx(0.7 + 0.3 / 3, abs=0.02)
    else:
        assert action[:, 1].std() == pytest.approx(0.3, abs=0.02)
        assert action.max() == 1


@needs_minari
def test_to_minari_and_back_bit_for_bit(data, folder, capsys):
    assert main(["dataset", "export", str(data), "--out=toy/random-v0"]) == 0
    assert "written to minari:toy/random-v0: 2 episodes, 22 rows, mean return 55.00" in capsys.readouterr().out
    assert main(["dataset", "import", "toy/random-v0", f"--out={folder / 'back'}"]) == 0
    ours, theirs = (open_dataset(str(place)) for place in (data, folder / "back"))
    assert ours.name.partition(" ")[2] == theirs.name.partition(" ")[2]  # the hash of all rows
    assert ours.about == theirs.about == open_dataset("minari:toy/random-v0").about
    for before, after in zip(ours.read(), theirs.read(), strict=True):
        for x, y in zip(before, after, strict=True):
            np.testing.assert_array_equal(x, y)
    assert "got 'toy/random-v0', which exists" in refused(
        capsys, "dataset", "export", f"--logdir={data}", "--out=toy/random-v0"
    )
    assert "which exists, expected a new folder" in refused(
        capsys, "dataset", "import", "toy/random-v0", "--out", folder / "back"
    )
    assert main([*RANDOM, "--episodes=1", "--out=minari:toy/more-v0"]) == 0
    assert open_dataset("minari:toy/more-v0").lengths == (11,)


def test_train_offline_then_resume_and_play(data, folder, capsys):
    run = ["train", f"--offline={data}", f"--logdir={folder / 'run'}", *SHORT]
    assert main(run) == 0
    saved = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert (saved["task"], saved["env_frames"], saved["env"]["action_repeat"]) == ("counting", 0, 1)
    assert saved["offline_data"].startswith("random sha256:")
    assert main([*(word for word in run if word != "--quiet"), "--env_frames=0"]) == 0
    assert "2 updates are made and all 0 env_frames are spent" in capsys.readouterr().out
    assert main(["train", f"--logdir={folder / 'run'}", "--env_frames=4", "--quiet"]) == 0
    assert len(episode_paths(folder / "run" / "episodes")) == 2
    later = ["train", f"--logdir={folder / 'run'}"]
    assert "expected 2: the run has begun to play" in refused(capsys, *later, "--train.offline_updates=3")
    assert "the run has played 4 of them" in refused(capsys, *later, "--env_frames=0")
    assert main(["train", f"--offline={folder / 'run'}", f"--logdir={folder / 'next'}", *SHORT]) == 0  # a run is data


def test_arrays_of_another_program_are_learned_from(folder, capsys):
    (folder / "npz").mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    np.savez(folder / "npz" / "0.npz", pixels=frames, action=np.full((19, 3), 0.5), reward=np.ones(19))
    run = ["train", f"--offline={folder / 'npz'}", f"--logdir={folder / 'run'}", *SHORT]
    assert "task: got counting with 2 action dimensions, expected 3" in refused(capsys, *run)
    assert not (folder / "run").exists()
    assert main([*run[:-1], "--task=my robot"]) == 0
    assert "no evaluations: my robot cannot be played here" in capsys.readouterr().out
    assert main(["dataset", "import", str(folder / "npz"), f"--out={folder / 'ours'}"]) == 0
    assert open_dataset(str(folder / "ours")).returns == (19.0,)


def test_what_does_not_fit_is_one_line_and_nothing_is_written(data, folder, capsys):
    run = ["train", f"--logdir={folder / 'run'}", *SHORT]
    here = [*run, f"--offline={data}"]
    (folder / "empty").mkdir()
    lines = {
        "got '/nowhere', expected a folder of episodes": [*run, "--offline=/nowhere"],
        "a folder without episodes, expected .ep or .npz": [*run, f"--offline={folder / 'empty'}"],
        "task: got reaching, expected counting as in the episodes of random": [*here, "--task=reaching"],
        "env.action_repeat: got 2, expected 1 as in": [*here, "--env.action_repeat=2"],
        "env.size: got 32, expected 64": [*here, "--env.size=32"],
        "replay.capacity_steps: got room for 10 rows, expected 22": [*here, "--replay.capacity_steps=10"],
        "expected at least replay.batch_length (30)": [*here, "--replay.batch_length=30"],
        "offline: got algo sac, expected aime": [*here, "--algo=sac"],
        "offline_data: got a value, expected none: `train --offline` notes it": [*run, "--offline_data=x"],
        "train.offline_updates: got 2, expected 0 without --offline": run,
        "minari:": [*run, "--offline=minari:none-v0"],
    }
    for line, words in lines.items():
        assert line in refused(capsys, *words), line
    collect = {
        "policy: got noisy, expected --logdir or --agent": [*RANDOM, "--policy=noisy", f"--out={folder / 'x'}"],
        "noise: got 0.1 for policy random": [*RANDOM, "--noise=0.1", f"--out={folder / 'x'}"],
        "episodes: got 0, expected at least 1": [*RANDOM, "--episodes=0", f"--out={folder / 'x'}"],
        "which exists, expected a new folder": [*RANDOM, f"--out={data}"],
        "expected a name like walker/mixed-v0": [*RANDOM, "--out=minari:nameless"],
    }
    for line, words in collect.items():
        assert line in refused(capsys, *words)
    assert not (folder / "run").exists()
    assert not (folder / "x").exists()


def test_damaged_folders_are_one_line_that_names_the_file(data, folder, capsys):
    def damage(change) -> str:
        copy = folder / "copy"
        copy.mkdir(exist_ok=True)
        for path in data.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        change(copy)
        return refused(capsys, "train", f"--offline={copy}", f"--logdir={folder / 'run'}", *SHORT)

    def flip(copy):
        content = bytearray((copy / "00000001-11.ep").read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "00000001-11.ep").write_bytes(content)

    assert "00000001-11.ep: checksum: does not match the contents" in damage(flip)
    assert "00000000-11.ep" in damage(lambda copy: (copy / "00000000-11.ep").unlink())
    for text in ("{", "[]", '{"about": {}, "episodes": [{"file": "../x"}]}', '{"about": {"task": 3}, "episodes": []}'):
        assert "dataset.json: " in damage(lambda copy, text=text: (copy / "dataset.json").write_text(text))
    assert not (folder / "run").exists()
    assert not list((folder / "copy").glob("*.damaged"))  # a user's files are left alone
