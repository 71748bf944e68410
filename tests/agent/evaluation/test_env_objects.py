"""Environments that are no task and registered nowhere: learned in, evaluated, recorded, and counted as tasks are."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from imageio_ffmpeg import count_frames_and_secs
from stable_baselines3.common.callbacks import CallbackList, EvalCallback, EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import envs
from agent import AIME, load
from agent.evaluation.episodes import evaluate, random_evaluation
from agent.stable_baselines.envs import task_of
from agent.video.dream_video import record_dream
from agent.video.imagination import record_imagination
from agent.video.recording import record
from envs import make_env
from envs.counting import CountingEnv
from tests.agent.stable_baselines.sb3_models import counting, model_of


class Lights(gymnasium.Env):
    """Frames of another size, a choice of three, an episode of 12 decisions that pay 1 each."""

    observation_space, action_space = Box(0, 255, (48, 48, 3), np.uint8), Discrete(3)
    is_closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros((48, 48, 3), np.uint8), {}

    def step(self, action):
        self.taken += 1
        return np.full((48, 48, 3), self.taken, np.uint8), 1.0, self.taken == 12, False, {}

    def close(self):
        self.is_closed = True


@pytest.fixture(scope="module")
def lights(tmp_path_factory):
    """An agent that has learned among lights."""
    path = tmp_path_factory.mktemp("lights") / "model"
    model_of(Lights()).learn(120).save(path)
    return load(path, device="cpu")


# ---------------------------------------------------------------- evaluation and videos


def test_an_object_is_evaluated_and_stays_open(lights):
    env = Lights()
    result = evaluate(lights, 2, env=env)
    assert (result.returns, result.lengths, result.task) == ((12.0, 12.0), (12, 12), "Lights")
    assert random_evaluation(lights.config, 2, env=env).returns == (12.0, 12.0)
    assert not env.is_closed
    made = []
    evaluate(lights, 2, env=lambda: made.append(Lights()) or made[-1])
    assert [env.is_closed for env in made] == [True]


def test_an_object_is_recorded(lights, tmp_path):
    results = record(lights, tmp_path / "episodes.mp4", episodes=2, size=64, env=Lights())
    assert [result.length for result in results] == [12, 12]
    assert count_frames_and_secs(tmp_path / "episodes.mp4")[0] == 2 * 13
    record(lights, tmp_path / "grid.mp4", episodes=2, size=64, grid=True, env=Lights)
    assert count_frames_and_secs(tmp_path / "grid.mp4")[0] == 13
    with pytest.raises(ValueError, match=r"^env: got one for a grid of 2, expected a function that makes one$"):
        record(lights, tmp_path / "not.mp4", episodes=2, grid=True, env=Lights())
    assert not (tmp_path / "not.mp4").exists()


def test_dreams_of_an_object_are_recorded(lights, tmp_path):
    scores = record_dream(lights, tmp_path / "dream.mp4", env=Lights())
    assert set(scores.open_loop) == {1, 5}
    assert count_frames_and_secs(tmp_path / "dream.mp4")[0] == 13
    imagination = record_imagination(lights, tmp_path / "imagine.mp4", horizon=4, dreams=2, env=Lights())
    assert (imagination.real, len(imagination.dreamt)) == (4.0, 2)


def test_the_same_environment_by_name_and_as_an_object():
    model = model_of(counting()).learn(110)
    by_name, as_object = evaluate(model.agent, 3), evaluate(model.agent, 3, env=CountingEnv())
    assert by_name == as_object
    wrapped = evaluate(model.agent, 3, env=counting())  # a Monitor around it
    assert (wrapped.returns, wrapped.lengths) == (by_name.returns, by_name.lengths)


@pytest.mark.parametrize(("env", "line"), [
    (lambda: None, "^task: got 'gym:Lights', expected .*; in Python env= takes an environment object$"),
    (lambda: DummyVecEnv([Lights]),
     "^env: got DummyVecEnv, expected a gymnasium.Env, a function that makes one, or 'gym:<id>'$"),
    (lambda: 3, "^env: got int, expected a gymnasium.Env, a function that makes one"),
    (lambda: CountingEnv(size=32), "^env: got frames of 32 pixels, expected 64$"),
    (lambda: CountingEnv(), r"action: got shape \(3,\), expected \(2,\)"),
])  # fmt: skip
def test_what_is_no_such_environment_is_one_line(lights, env, line, tmp_path):
    uses = (
        lambda env: evaluate(lights, 1, env=env),
        lambda env: record(lights, tmp_path / "a.mp4", env=env),
        lambda env: record_dream(lights, tmp_path / "a.mp4", env=env),
        lambda env: record_imagination(lights, tmp_path / "a.mp4", env=env),
    )
    for use in uses:
        with pytest.raises(Exception, match=line) as caught:
            use(env())
        assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_model_is_told_to_be_loaded_as_an_agent():
    with pytest.raises(ValueError, match=r"^agent: got AIME, expected an Agent; agent.load\(path\) loads one"):
        evaluate(model_of(), 1)


# ---------------------------------------------------------------- counted alike


def without_count(config):
    return replace(config, env=replace(config.env, num_envs=1))


@pytest.mark.parametrize("task", ["reaching", "cartpole_swingup"])
def test_a_task_and_its_environment_have_the_same_settings(task):
    """Prefill, training ratio and the preset's row for the task, whether it is named, made, wrapped or registered."""
    by_name = AIME(task, seed=0, device="cpu", threads=1)
    played = {"action_repeat": by_name.config.env.action_repeat, "render": "fast"}
    made = [make_env(task, **played), DummyVecEnv([lambda: make_env(task, **played)] * 2)]
    if task == "cartpole_swingup":
        made.append(make_vec_env("dmc_pixels/cartpole_swingup-v0", env_kwargs=played))
    for env in made:
        model = AIME(env, seed=0, device="cpu", threads=1)
        same = {"reaching": "standard", "cartpole_swingup": "fast"}[task]
        assert model.config.env.render == same
        changed = AIME(task, seed=0, device="cpu", threads=1, overrides={"env.render": same})
        assert without_count(model.config) == changed.config
        env.close()


@pytest.mark.parametrize("repeat", [1, 4])
@pytest.mark.parametrize("kind", ["name", "object", "vector", "other"])
def test_the_prefill_is_env_frames_however_the_environment_comes(repeat, kind):
    """100 env_frames of the debug preset are 100 / repeat timesteps, all environments together."""
    settings = {"overrides": {"env.action_repeat": repeat}} if kind == "name" else {}
    env = {
        "name": lambda: "counting",
        "object": lambda: counting(action_repeat=repeat),
        "vector": lambda: DummyVecEnv([lambda: counting(action_repeat=repeat)] * 2),
        "other": lambda: Lights(),
    }[kind]()
    expected = 100 if kind == "other" else 100 // repeat
    model = model_of(env, **settings).learn(expected)
    assert model.agent.updates == 0
    model.learn(40, reset_num_timesteps=False)
    assert model.agent.updates == 40 * 2 // 16  # the debug preset trains twice on a frame, 16 of them an update


def test_other_environments_are_named_by_id_or_class():
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    vector_alone = {"size": 0, "vector": True}
    assert task_of(env) == ("gym:CartPole-v1", {"num_envs": 1, "action_repeat": 1} | vector_alone)
    assert task_of(Lights()) == ("gym:Lights", {"num_envs": 1, "action_repeat": 1})
    pixels = envs.GymPixels(lambda: Lights(), action_repeat=3)
    drawn = {"size": 64, "render": "standard", "camera": None, "vector": None}
    assert task_of(pixels) == ("gym:Lights", {"num_envs": 1, "action_repeat": 3} | drawn)
    env.close()


@pytest.mark.parametrize("task", ["cartpole_swingup", "cartpole_swingup?time_limit=1"])
def test_an_object_is_evaluated_as_it_was_made_where_its_task_says_so(task):
    env = make_env(task, action_repeat=8, render="fast", camera=1)
    model = model_of(env, replay={"capacity_steps": 500})
    assert (model.config.task, model.config.env.camera, model.config.env.render) == (task, 1, "fast")
    if "?" in task:  # a short episode
        assert evaluate(model.agent, 1) == evaluate(model.agent, 1, env=env)
    env.close()


# ---------------------------------------------------------------- evaluations while learning


@pytest.mark.parametrize("form", ["alone", "list", "nested"])
@pytest.mark.parametrize("env", [counting, lambda: DummyVecEnv([counting])])
def test_an_evaluation_takes_the_environment_as_it_is(env, form):
    """Warnings are errors here: Stable-Baselines3 warns where training and evaluation are not wrapped alike."""
    evaluation = EvalCallback(env(), n_eval_episodes=1, eval_freq=5, verbose=0)
    every = EveryNTimesteps(10, evaluation)
    callback = {"alone": evaluation, "list": [evaluation], "nested": CallbackList([every])}[form]
    model_of().learn(60, callback)
    assert evaluation.last_mean_reward == 55.0


def test_an_evaluation_shares_the_training_s_normalization():
    training = VecNormalize(DummyVecEnv([counting]), norm_obs=False)
    held_out = VecNormalize(DummyVecEnv([counting]), norm_obs=False, norm_reward=False, training=False)
    evaluation = EvalCallback(held_out, n_eval_episodes=1, eval_freq=20, verbose=0)
    model_of(training).learn(40, evaluation)
    assert evaluation.last_mean_reward == 55.0
    assert held_out.ret_rms.var == training.ret_rms.var
