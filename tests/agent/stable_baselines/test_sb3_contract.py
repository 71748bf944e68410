"""AIME(env) holds environments to Gymnasium's API before anything is learned, and sees the image of a Dict."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from agent import AIME
from envs import GymPixels, make_env

PICTURE = Box(0, 255, (16, 16, 3), np.uint8)


class Lamp(gymnasium.Env):
    """Ten steps of a picture; a step answers `answer` where there is one."""

    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, observation_space=PICTURE, **answer):
        self.observation_space, self.answer, self.count = observation_space, answer, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.observe(), {}

    def observe(self):
        space = self.observation_space
        entries = space.items() if isinstance(space, Dict) else [(None, space)]
        found = {name: np.full(part.shape, self.count, part.dtype) for name, part in entries}
        return found if isinstance(space, Dict) else found[None]

    def step(self, action):
        self.count += 1
        answer = {
            "seen": self.observe(),
            "reward": 1.0,
            "end": False,
            "cut": self.count == 10,
            "info": {},
        } | self.answer
        return tuple(value for value in answer.values() if value is not Ellipsis)


def model_of(env):
    return AIME(env, preset="debug", seed=0, device="cpu")


@pytest.mark.parametrize("wrap", [lambda lamp: lamp, lambda lamp: DummyVecEnv([lambda: lamp])], ids=["env", "vec"])
@pytest.mark.parametrize(("answer", "line"), [
    ({"reward": [1.0]}, r"step: got a reward of \[1.0\] from gym:Lamp, expected one number"),
    ({"reward": None}, "step: got a reward of None"),
    ({"end": Ellipsis}, "step: got a result of 4 values"),
    ({"seen": np.zeros((16, 16, 3))}, r"observation: got float64 \(16, 16, 3\) from gym:Lamp, expected uint8"),
    ({"seen": np.zeros((16, 17, 3), np.uint8)}, r"observation: got uint8 \(16, 17, 3\)"),
])  # fmt: skip
def test_answers_outside_of_the_api_are_one_line_before_anything_is_learned(wrap, answer, line):
    model = model_of(wrap(Lamp(**answer)))
    with pytest.raises(ValueError, match=rf"^{line}[^\n]*$"):
        model.learn(200)
    assert model.agent.updates == 0


@pytest.mark.parametrize("wrap", [lambda lamp: lamp, lambda lamp: DummyVecEnv([lambda: lamp])], ids=["env", "vec"])
@pytest.mark.parametrize("reward", [np.array([2.0]), np.float32(2.0), np.array(2.0)])
def test_a_reward_of_one_element_is_learned_from(wrap, reward):
    model = model_of(wrap(Lamp(reward=reward)))
    model.learn(40)
    assert {info["r"] for info in model.ep_info_buffer} <= {20.0}
    assert model._rollout.replay.sample(2, 8).reward.max() == 2.0


CAMERA = Dict(camera=PICTURE, pose=Box(-1.0, 1.0, (3,)))


def test_a_dict_shows_its_image_and_its_vector(tmp_path):
    model = model_of(Lamp(CAMERA))
    assert model.learn(120).agent.updates > 0
    mean, _ = evaluate_policy(model, GymPixels(Lamp(CAMERA)), n_eval_episodes=1, warn=False)
    assert mean == 10.0
    model.save(tmp_path / "model")
    assert AIME.load(tmp_path / "model", Lamp(CAMERA), "cpu").learn(20).num_timesteps == 20
    model.set_env(Lamp(CAMERA))


def test_a_vec_env_of_dicts_shows_its_image_and_its_vector():
    model = model_of(make_vec_env(lambda: Lamp(CAMERA), n_envs=2))
    assert {name: part.shape for name, part in model.observation_space.items()} == {"camera": (3, 16, 16), "pose": (3,)}
    assert model.learn(120).agent.updates > 0


@pytest.mark.parametrize(("space", "line"), [
    (Dict(left=PICTURE, right=PICTURE), r"observation key: got none for [^\n]*, expected one of its images \(left, "),
    (Dict(pose=Box(-1.0, 1.0, (3,))), "expected"),
])  # fmt: skip
def test_a_dict_without_one_image_is_one_line(space, line):
    for env in (Lamp(space), make_vec_env(lambda: Lamp(space))):
        with pytest.raises(ValueError, match=rf"^[^\n]*{line}[^\n]*$"):
            model_of(env)


def test_arguments_in_a_name_and_as_settings():
    model = AIME("counting?length=7", preset="debug", seed=0, device="cpu")
    assert model.config.task == "counting?length=7"
    model.learn(40)
    assert {info["l"] for info in model.ep_info_buffer} == {7}
    model = AIME("counting", preset="debug", seed=0, device="cpu", overrides={"env.kwargs": {"length": 5}})
    model.learn(40)
    assert {info["l"] for info in model.ep_info_buffer} == {5}
    with pytest.raises(ValueError, match=r"^env.kwargs: got [^\n]*, expected none[^\n]*$"):
        AIME(make_env("counting"), preset="debug", overrides={"env.kwargs": {"length": 5}})
