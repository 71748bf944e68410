"""What AIME refuses, each in one line, and the forms that its settings may have."""

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from stable_baselines3.sac.policies import MlpPolicy as SacMlpPolicy

from agent import AIME, make_config
from agent.run_folder.checkpoint import write_checkpoint
from envs import make_env
from envs.counting import CountingEnv
from tests.agent.stable_baselines.sb3_models import counting, model_of


class Grey(gymnasium.Env):
    observation_space, action_space = Box(0, 255, (64, 64, 1), np.uint8), Box(-1.0, 1.0, (2,))


class Floats(gymnasium.Env):
    observation_space, action_space = Box(-1.0, 1.0, (4, 4)), Box(-1.0, 1.0, (2,))


def with_actions(space):
    env = CountingEnv()
    env.action_space = space
    return env


@pytest.mark.parametrize(("env", "line"), [
    (lambda: Floats(), r"env: got observations Box\(-1, 1, \(4, 4\), float32\), expected frames .*, a vector .* or a"),
    (lambda: VecFrameStack(DummyVecEnv([counting]), 3), r"env: got observations Box\(0, 255, \(64, 64, 9\), uint8\)"),
    (lambda: VecFrameStack(DummyVecEnv([Grey]), 3), r"\(64, 64, 3\), uint8\) of a frame stack, expected single frames"),
    (lambda: FrameStackObservation(counting(), 3), r"\(3, 64, 64, 3\), uint8\) of a frame stack, expected single"),
    (lambda: VecNormalize(DummyVecEnv([counting])), "env: got a VecNormalize of observations, expected norm_obs=False"),
    (lambda: None, "^env: got none, expected a gymnasium.Env, a VecEnv, a gymnasium id or a task"),
    (lambda: 3, "^env: got 3, expected a gymnasium.Env"),
    (lambda: CountingEnv, "^env: got <class 'envs.counting.CountingEnv'>, expected a gymnasium.Env"),
    (lambda: with_actions(gymnasium.spaces.MultiBinary(3)), r"env: got actions MultiBinary\(3\), expected a Box"),
    (lambda: with_actions(Box(-np.inf, np.inf, (2,))), r"env: got actions Box\(-inf, inf, .* expected a Box with"),
    (lambda: "FrozenLake-v1", r"env: got observations Discrete.*'gym:<id>' renders"),
    (lambda: "Pendulun-v1", "the nearest one is .*Pendulum-v1"),
    (lambda: "gym:Pendulun-v1", "the nearest one is 'gym:Pendulum-v1'"),
])  # fmt: skip
def test_environments_that_do_not_fit(env, line):
    with pytest.raises(ValueError, match=line) as caught:
        model_of(env())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("settings", "line"), [
    ({"replay": {"batch_sizes": 8}}, "unknown key 'replay.batch_sizes'; the nearest known one is 'replay.batch_size'"),
    ({"overrides": {"train.train_ratio": "much"}}, "train_ratio"),
    ({"task": "walker_walk"}, "^task: got a value, expected none"),
    ({"env_frames": 7}, "^env_frames: got a value, expected none"),
    ({"overrides": {"seed": 3}}, "^seed: got a value, expected none"),
    ({"train": {"final_updates": 3}}, "^train.final_updates: got a value, expected none"),
    ({"overrides": {"env.action_repeat": 3}}, "^env.action_repeat: got a value, expected none"),
    ({"replay": {"capacity_steps": 10**12}}, "replay.capacity_steps"),
    ({"learning_rate": 1e-3}, "^learning_rate: got a value, expected none: here it is optimizer.model_lr, optimizer"),
    ({"buffer_size": 1000}, "^buffer_size: got a value, expected none: here it is replay.capacity_steps$"),
    ({"policy_kwargs": {}}, "^policy_kwargs: got a value, expected none: here it is settings under world_model"),
    ({"sac": {"batch_size": 8}}, r"^unknown key 'sac(\.batch_size)?'"),
    ({"use_sde": {}}, "^unknown key 'use_sde'"),
    ({"overrides": 3}, "^overrides: got 3, expected settings under dotted keys$"),
    ({"verbose": "loud"}, "^verbose: got 'loud', expected a whole number$"),
    ({"tensorboard_log": 3}, "^tensorboard_log: got 3, expected a folder$"),
])  # fmt: skip
def test_settings_that_do_not_fit(settings, line):
    with pytest.raises(ValueError, match=line) as caught:
        AIME(counting(), "debug", 0, "cpu", **settings).learn(1)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_is_one_line():
    with pytest.raises(ValueError, match=r"^unknown preset 'cup'; the nearest known one is 'cpu'$"):
        AIME("counting", preset="cup")


def test_settings_reach_the_config_in_three_forms():
    for settings in ({"replay": {"batch_size": 3}}, {"replay.batch_size": 3}, {"overrides": {"replay.batch_size": 3}}):
        assert model_of(**settings).config.replay.batch_size == 3
    assert model_of(overrides={"env.num_envs": 3}).n_envs == 3  # of a task, the environments are made here


@pytest.mark.parametrize("count", [0, -5])
def test_nothing_to_learn_is_refused(count):
    with pytest.raises(ValueError, match=f"^total_timesteps: got {count}, expected at least 1$"):
        model_of().learn(count)


@pytest.mark.parametrize("count", [10.5, "a", None, True, np.nan, np.inf])
def test_counts_are_whole_numbers(count):
    model = model_of()
    with pytest.raises(ValueError, match=f"^total_timesteps: got {count!r}, expected a whole number$"):
        model.learn(count)
    if count is not None:  # that is: no log
        with pytest.raises(ValueError, match=f"^log_interval: got {count!r}, expected a whole number"):
            model.learn(10, log_interval=count)
        with pytest.raises(ValueError, match=f"^seed: got {count!r}, expected a whole number$"):
            model_of(seed=count)
    with pytest.raises(ValueError, match=r"^log_interval: got 0, expected at least 1$"):
        model.learn(10, log_interval=0)


@pytest.mark.parametrize("count", [20, 2e1, np.int64(20), np.float32(20)])
def test_a_whole_number_of_any_type_will_do(count):
    assert model_of(seed=count).learn(count).num_timesteps == 20


# ---------------------------------------------------------------- Stable-Baselines3's order


@pytest.mark.parametrize(("arguments", "named"), [
    (("CnnPolicy", counting()), {}),
    (("CnnPolicy",), {"env": counting()}),
    ((), {"policy": "CnnPolicy", "env": counting()}),
    ((counting(),), {"policy": "CnnPolicy"}),
    (("CnnPolicy", "counting"), {"overrides": {"env.num_envs": 1, "env.render": "standard"}}),
    (("MultiInputPolicy", counting()), {}),
    (("CnnLstmPolicy", counting()), {}),
    ((counting(),), {}),
    ((), {"env": counting()}),
    (("counting",), {"overrides": {"env.num_envs": 1, "env.render": "standard"}}),
])  # fmt: skip
def test_the_policy_may_come_first(arguments, named):
    model = AIME(*arguments, preset="debug", seed=1, device="cpu", **named)
    assert (model.config.task, model.n_envs, model.config.seed) == ("counting", 1, 1)
    assert model.config == AIME(counting(), "debug", 1, "cpu").config


@pytest.mark.parametrize(("policy", "line"), [
    ("MlpPolicy", "^policy: got 'MlpPolicy', expected 'CnnPolicy' or none: the environment decides"),
    (SacMlpPolicy, "^policy: got SACPolicy, expected 'CnnPolicy'; settings of world_model and behavior shape it$"),
    ("CnnPolcy", "^unknown policy 'CnnPolcy'; the nearest known one is 'CnnPolicy'$"),
    ("cnnpolicy", "^unknown policy 'cnnpolicy'; the nearest known one is"),
])  # fmt: skip
def test_other_policies_are_one_line(policy, line):
    for arguments, named in (((policy, counting()), {}), ((), {"policy": policy, "env": counting()})):
        with pytest.raises(ValueError, match=line):
            AIME(*arguments, preset="debug", device="cpu", **named)


def test_a_policy_alone_is_no_environment():
    with pytest.raises(ValueError, match=r"^policy: got 'MlpPolicy', expected 'CnnPolicy'"):
        AIME("MlpPolicy")
    with pytest.raises(ValueError, match=r"^env: got none, expected a gymnasium.Env"):
        AIME("CnnPolicy")
    with pytest.raises(ValueError, match=r"^preset: got 0.001, expected a short text$"):
        AIME("CnnPolicy", counting(), 1e-3)


def test_predict_names_what_came():
    with pytest.raises(ValueError, match=r"^observation: got float32 \[2, 64, 64, 3\], expected uint8 frames"):
        model_of().predict(np.zeros((2, 64, 64, 3), np.float32))


def test_files_that_are_not_ours(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^path: got '.*nothing', expected a file that AIME.save wrote"):
        AIME.load(tmp_path / "nothing")
    (tmp_path / "foreign.zip").write_bytes(b"PK" + bytes(100))
    with pytest.raises(ValueError, match=r"foreign\.zip: not a checkpoint of this program$"):
        AIME.load(tmp_path / "foreign")
    write_checkpoint(tmp_path / "run.pt", {"agent": {}})
    with pytest.raises(ValueError, match=r"run\.pt', a checkpoint of a run"):
        AIME.load(tmp_path / "run.pt")


def test_other_environments_are_refused(tmp_path):
    model = model_of()
    model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"^env: got 1 environments, expected 2"):
        model.set_env(counting())
    with pytest.raises(ValueError, match="Action spaces do not match"):
        AIME.load(tmp_path / "model", counting(action_dim=3))
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(DummyVecEnv([lambda: counting(size=32)] * 2))
    with pytest.raises(ValueError, match=r"^env: got none, expected a gymnasium.Env"):
        model.set_env(None)
    with pytest.raises(ValueError, match="of a frame stack, expected single frames"):
        AIME.load(tmp_path / "model", VecFrameStack(DummyVecEnv([counting]), 3))
    assert AIME.load(tmp_path / "model", counting()).learn(5).num_timesteps == 5  # another number of them


def test_a_task_is_made_as_the_preset_says():
    model = AIME("reaching", preset="cpu", seed=0, device="cpu")
    assert model.config.env.action_repeat == make_config("cpu", "reaching").env.action_repeat
    assert (model.n_envs, model.config.task) == (1, "reaching")
    assert model.observation_space.shape == (3, *make_env("reaching").observation_space.shape[:2])


@pytest.mark.parametrize("callback", [3, "eval", [print]])
def test_an_unknown_callback_is_one_line_before_anything_is_learned(callback):
    model = model_of()
    with pytest.raises(ValueError, match=r"^callback: got [^\n]*, expected a callback of stable_baselines3[^\n]*$"):
        model.learn(10, callback=callback)
    assert model.num_timesteps == 0


def test_importing_the_package_imports_no_stable_baselines():
    program = "import sys, agent, agent.commands.parser, run_agent; sys.exit('stable_baselines3' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).resolve().parents[3], check=False).returncode
        == 0
    )
