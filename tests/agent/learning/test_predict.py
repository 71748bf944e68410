"""Agent.predict, the door that Stable-Baselines3 comes through."""

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

from agent import Agent, make_config
from agent.evaluation.episodes import evaluate
from envs.reaching import ReachingEnv


@pytest.fixture
def agent():
    return Agent(make_config("debug"), 2, "cpu")


def frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_predict_takes_both_channel_orders_and_single_frames(agent):
    images = frames(2)
    actions, state = agent.predict(images, deterministic=True)
    assert actions.shape == (2, 2)
    turned, _ = agent.predict(images.transpose(0, 3, 1, 2), deterministic=True)
    np.testing.assert_array_equal(turned, actions)
    single, _ = agent.predict(images[0], deterministic=True)
    np.testing.assert_allclose(single, actions[0], atol=1e-5)
    again, _ = agent.predict(images, state, episode_start=np.ones(2, bool), deterministic=True)
    np.testing.assert_allclose(again, actions, atol=1e-6)


@pytest.mark.parametrize(
    "observation",
    [
        np.zeros((2, 64, 64, 3), np.float32),
        np.zeros((2, 64, 64, 4), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((0, 64, 64, 3), np.uint8),
        np.zeros((64, 64), np.uint8),
    ],
)
def test_predict_names_what_came_and_what_was_expected(agent, observation):
    with pytest.raises(ValueError, match=r"^observation: got .*\], expected uint8 frames \[H, W, 3\] or \[3, H, W\]"):
        agent.predict(observation)


def test_predict_counts_its_flags(agent):
    with pytest.raises(ValueError, match="episode_start: got 3 flags, expected 2"):
        agent.predict(frames(2), episode_start=np.ones(3, bool))


@pytest.mark.parametrize("wrap", [Monitor, lambda env: DummyVecEnv([lambda: Monitor(env)]),
                                  lambda env: VecTransposeImage(DummyVecEnv([lambda: Monitor(env)]))])  # fmt: skip
def test_evaluate_policy_plays_what_evaluate_plays(wrap):
    agent = Agent(make_config("debug", "reaching"), 1, "cpu")
    env = wrap(ReachingEnv(seed=3))
    returns, lengths = evaluate_policy(agent, env, n_eval_episodes=1, return_episode_rewards=True)
    expected = evaluate(agent, 1, seed=3)
    assert returns == pytest.approx(expected.returns, abs=1e-4)
    assert lengths == list(expected.lengths)


def test_episode_start_clears_the_memory_of_that_environment_alone(agent):
    pairs = frames(8).reshape(4, 2, 64, 64, 3)
    state = None
    for pair in pairs[:3]:
        _, state = agent.predict(pair, state, np.array([state is None] * 2), deterministic=True)
    mixed, _ = agent.predict(pairs[3], state, np.array([True, False]), deterministic=True)
    carried, _ = agent.predict(pairs[3], state, deterministic=True)
    fresh, _ = agent.predict(pairs[3], deterministic=True)
    np.testing.assert_allclose(mixed, [fresh[0], carried[1]], atol=1e-6)
    assert (fresh != carried).any(axis=1).all()


def test_frames_of_other_sizes_are_resized_by_area(agent):
    small = frames(2)
    large = small.repeat(2, axis=1).repeat(3, axis=2)  # each pixel is a block of equal ones
    expected, _ = agent.predict(small, deterministic=True)
    for shown in (large, large.transpose(0, 3, 1, 2)):
        np.testing.assert_allclose(agent.predict(shown, deterministic=True)[0], expected, atol=1e-6)
    grey = small[..., :1]
    expected, _ = agent.predict(grey.repeat(3, axis=-1), deterministic=True)
    for shown in (grey, grey.transpose(0, 3, 1, 2)):
        np.testing.assert_allclose(agent.predict(shown, deterministic=True)[0], expected, atol=1e-6)


def test_a_state_belongs_to_its_number_of_environments(agent):
    _, state = agent.predict(np.zeros((2, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"^state: got one of 2 environments, expected 1$"):
        agent.predict(np.zeros((64, 64, 3), np.uint8), state)
