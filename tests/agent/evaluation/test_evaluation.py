"""One loop over episodes: rows as the schema says, and returns that are known."""

import json
import math

import numpy as np
import pytest
import torch

from agent.config.presets import make_config
from agent.evaluation.episodes import evaluate, play_episode, random_evaluation
from agent.learning.agent import Agent
from envs import Step, make_env
from envs.counting import decode_frame


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(make_config("debug", "reaching"), action_dim=1, device="cpu")


class Steady:
    """Always the same action; remembers what it was shown."""

    def __init__(self, action=(0.5, -0.25)) -> None:
        self.action, self.first, self.states = np.array([action], np.float32), [], []

    def initial_state(self, num_envs):
        assert num_envs == 1
        return 0

    def act(self, images, is_first, state, mode):
        assert images.shape == (1, 64, 64, 3)
        assert images.dtype == np.uint8
        self.first.append(bool(is_first[0]))
        self.states.append(state)
        return self.action, state + 1


@pytest.mark.parametrize("is_terminating", [True, False])
def test_rows_follow_the_schema_and_the_return_is_the_sum(is_terminating):
    env = make_env("counting", length=10, is_terminating=is_terminating)
    player, rows = Steady(), []
    result = play_episode(player, env, seed=0, on_step=rows.append)
    assert result == (55.0, 10, False)  # 1 + 2 + ... + 10
    assert player.first == [True] + [False] * 10
    assert player.states == list(range(11))  # the memory is handed on
    row: Step
    for t, row in enumerate(rows):
        assert int(decode_frame(row.image)[2][0]) == t
        assert row.reward[0] == t
        assert row.is_first[0] == (t == 0)
        assert row.is_last[0] == (t == 10)
        assert row.is_terminal[0] == (t == 10 and is_terminating)
        np.testing.assert_array_equal(row.action[0], [0, 0] if t == 10 else [0.5, -0.25])
    assert len(rows) == 11


def test_max_steps_ends_early():
    rows = []
    assert play_episode(Steady(), make_env("counting"), 0, on_step=rows.append, max_steps=3) == (6.0, 3, False)
    assert len(rows) == 4
    assert not rows[-1].is_last[0]


def test_evaluation_counts_steps_frames_and_seeds():
    config = make_config("debug", "counting", {"env.action_repeat": 5})
    result = random_evaluation(config, episodes=3, seed=7)
    assert result.seeds == (7, 8, 9)
    assert result.returns == (55.0,) * 3
    assert result.lengths == (2, 2, 2)
    assert result.env_frames == (10, 10, 10)
    assert (result.mode, result.task, result.render, result.action_repeat) == ("random", "counting", "fast", 5)
    assert (result.mean, result.std) == (55.0, 0.0)
    assert (result.interval_low, result.interval_high) == (55.0, 55.0)
    assert (result.iqm, result.iqm_low, result.iqm_high, result.lowest, result.highest) == (55.0,) * 5


def test_one_episode_has_no_interval_and_json_says_null():
    result = random_evaluation(make_config("debug", "reaching"), episodes=1)
    assert math.isnan(result.std)
    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert values["std"] is values["interval_low"] is values["interval_high"] is values["iqm_low"] is None
    assert values["returns"] == [result.mean]


@pytest.mark.parametrize("mode", ["deterministic", "sample"])
def test_an_evaluation_depends_on_weights_and_seed_alone(agent, mode):
    first = evaluate(agent, 2, seed=3, mode=mode)
    torch.randn(5)
    agent.act(np.zeros((1, 64, 64, 3), np.uint8), np.array([True]), agent.initial_state(1), "collect")
    assert evaluate(agent, 2, seed=3, mode=mode) == first
    assert evaluate(agent, 2, seed=4, mode=mode).returns != first.returns


def test_evaluation_leaves_the_agents_randomness_as_it_was(agent):
    before = agent.generators["act"].get_state()
    sampled = evaluate(agent, 1, mode="sample")
    assert torch.equal(agent.generators["act"].get_state(), before)
    assert sampled.returns != evaluate(agent, 1).returns


class Stop(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("mode", ["deterministic", "sample"])
def test_a_callback_sees_every_row_and_may_stop(agent, mode, monkeypatch):
    closed = []
    monkeypatch.setattr("envs.reaching.ReachingEnv.close", lambda env: closed.append(env))
    before, rows = agent.generators["act"].get_state(), []
    result = evaluate(agent, 2, seed=3, mode=mode, on_step=rows.append)
    assert [bool(row.is_first[0]) for row in rows] == 2 * ([True] + [False] * 25)
    assert sum(float(row.reward[0]) for row in rows) == pytest.approx(sum(result.returns))

    def stop(row):
        if len(rows) == 60:
            raise Stop
        rows.append(row)

    with pytest.raises(Stop):
        evaluate(agent, 2, seed=3, mode=mode, on_step=stop)
    assert len(closed) == 2
    assert torch.equal(agent.generators["act"].get_state(), before)


def test_random_actions_earn_less_than_the_best_ones():
    env = make_env("reaching")

    class Expert(Steady):
        def act(self, images, is_first, state, mode):
            return env.expert_action()[None], state

    best = np.mean([play_episode(Expert(), env, seed).total for seed in range(5)])
    chance = random_evaluation(make_config("debug", "reaching"), episodes=5)
    assert chance.mean < 0.6 * best


@pytest.mark.parametrize("episodes", [0, -1])
def test_no_episodes_are_refused(agent, episodes):
    with pytest.raises(ValueError, match=f"^episodes: got {episodes}, expected a positive number$"):
        evaluate(agent, episodes)
