"""Discrete actions through the whole agent: acting, checkpoints, the command line, and that it learns from pixels."""

import json

import gymnasium
import numpy as np
import pytest
import torch

from agent import Agent, Trainer, load, make_config
from agent.evaluation.episodes import RandomPlayer, play_episode
from agent.run_folder.checkpoint import load_newest
from envs import make_env
from envs.spaces import OneHot
from replay import EpisodeStore
from run_agent import main

TASK = "gym:Choice-v0"
LENGTH = 10


class Choice(gymnasium.Env):
    """The frame's colour, red, green or blue, names the action that pays 1."""

    observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.show(), {}

    def step(self, action):
        reward = float(action == self.named)
        return self.show(), reward, False, False, {}

    def show(self):
        self.named = int(self.np_random.integers(3))
        frame = np.zeros((16, 16, 3), np.uint8)
        frame[..., self.named] = 255
        return frame


@pytest.fixture(autouse=True, scope="module")
def _registered():
    gymnasium.register("Choice-v0", Choice, max_episode_steps=LENGTH)
    yield
    del gymnasium.registry["Choice-v0"]


def discrete_agent(**changes):
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    return Agent(make_config("debug", TASK, settings), 3, "cpu", is_discrete=True)


def are_one_hot(actions):
    return all(OneHot(3).contains(action) for action in actions)


@pytest.mark.parametrize("mode", ["collect", "sample", "deterministic"])
def test_every_mode_acts_in_one_hot_vectors(mode):
    agent = discrete_agent(behavior__action_noise=0.5)
    images = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)
    actions, memory = agent.act(images, np.ones(7, bool), agent.initial_state(7), mode)
    assert are_one_hot(actions)
    actions, _ = agent.act(images, np.zeros(7, bool), memory, mode)
    assert are_one_hot(actions)


def test_all_noise_is_chance():
    agent = discrete_agent(behavior__action_noise=1.0)
    with torch.no_grad():
        agent.actor_critic.actor.net[-1].bias[1] = 1e3  # the policy itself would always take this one
    images = np.zeros((3000, 64, 64, 3), np.uint8)
    first, memory = np.ones(3000, bool), agent.initial_state(3000)
    assert agent.act(images, first, memory, "sample")[0].mean(0)[1] > 0.98
    np.testing.assert_allclose(agent.act(images, first, memory, "collect")[0].mean(0), 1 / 3, atol=0.05)


def test_chance_plays_every_choice_equally_often():
    env = make_env(TASK)
    player = RandomPlayer(env.action_space, seed=0)
    rows = []
    for seed in range(60):
        play_episode(player, env, seed, on_step=rows.append)
    taken = np.concatenate([row.action for row in rows if not row.is_last[0]])
    assert are_one_hot(taken)
    np.testing.assert_allclose(taken.mean(0), 1 / 3, atol=5 * np.sqrt(2 / 9 / len(taken)))


def test_the_kind_of_actions_is_in_the_checkpoint(tmp_path):
    logdir = tmp_path / "run"
    trainer = Trainer(make_config("debug", TASK, {"env_frames": 130, "env.num_envs": 1}), logdir, quiet=True)
    assert trainer.agent.is_discrete
    trainer.run()
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    loaded = load(logdir)
    assert loaded.is_discrete
    found, expected = (
        agent.act(images, np.ones(5, bool), agent.initial_state(5), "deterministic")[0]
        for agent in (loaded, trainer.agent)
    )
    np.testing.assert_array_equal(found, expected)
    state = load_newest(logdir / "checkpoints")[0]["agent"]
    with pytest.raises(ValueError, match=r"^checkpoint: [^\n]*$"):
        Agent(make_config("debug", TASK), 3, "cpu").load_state_dict(state)
    assert not Agent(make_config("debug", TASK), 3, "cpu").is_discrete


def test_train_resume_evaluate_and_record_at_the_command_line(capsys, tmp_path):
    logdir = tmp_path / "run"
    command = ["train", "--preset", "debug", "--env.num_envs", "1", "--train.video_frames", "0", "--quiet"]
    command += ["--logdir", str(logdir), "--task", TASK, "--replay.prefill_frames", "60"]
    assert main([*command, "--env_frames", "90"]) == 0
    assert main([*command, "--env_frames", "120"]) == 0
    metrics = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["env_frames"] == 120
    assert any(1 / 3 <= row.get("actor_top_probability", 0) <= 1 for row in metrics)
    episodes = list(EpisodeStore(logdir / "episodes").load_all())
    assert episodes
    for episode in episodes:
        assert are_one_hot(episode.action[:-1])
    assert main(["evaluate", "--logdir", str(logdir), "--episodes", "2"]) == 0
    found = json.loads((logdir / "evaluation.json").read_text())
    assert all(0 <= total <= LENGTH for mode in ("sample", "random") for total in found[mode]["returns"])
    assert main(["record", "--logdir", str(logdir), "--dream"]) == 0
    assert main(["record", "--logdir", str(logdir)]) == 0
    assert "in 10 agent_steps" in capsys.readouterr().out


def test_a_default_folder_has_no_signs_that_paths_give_a_meaning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--preset", "debug", "--env.num_envs", "1", "--env_frames", "60", "--quiet", "--task", TASK]
    command += ["--replay.prefill_frames", "30"]
    assert main(command) == 0
    assert (tmp_path / "runs" / "gym_Choice-v0-seed0" / "config.yaml").is_file()
