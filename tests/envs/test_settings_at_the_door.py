"""The command line and Trainer: wrong environments end before anything is written, env.* settings belong to a run."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent import make_config
from agent.config.files import load_config, save_config
from agent.config.nested import differences
from agent.config.presets import load_preset
from agent.config.settings import EnvConfig
from agent.evaluation.episodes import agent_env
from agent.training.collector import Collector
from agent.training.trainer import Trainer
from envs import Driver, make_vector_env
from envs.driver import EnvironmentFailure
from replay import EpisodeStore
from run_agent import main
from tests.envs.test_contract import task

ROOT = Path(__file__).parents[2]
TRAIN = ["train", "--preset", "debug", "--quiet", "--env.num_envs", "1", "--env_frames", "110"]


def run(logdir, *arguments, **variables):
    """The status, and what is on stderr, of `run_agent.py` in a process of its own."""
    environment = {**os.environ, **variables}
    command = [sys.executable, "run_agent.py", *arguments, "--logdir", str(logdir)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(("name", "line"), [
    ("RewardList", "step: got a reward of [1.5] from NAME, expected one number"),
    ("StepFour", "step: got a result of 4 values"),
    ("MakingTypeError", "task: got 'NAME', whose constructor raises TypeError (no such planet"),
    ("ResetNoSeed", "reset: got TypeError"),
    ("DrawsFloats", "render: got float64 array (30, 40, 3) from NAME, expected uint8 [H, W, 3] from 0 to 255"),
])  # fmt: skip
@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_wrong_environment_is_one_line_status_2_and_nothing_written(tmp_path, capfd, name, line, num_envs):
    logdir = tmp_path / "run"
    arguments = [*TRAIN, "--env.num_envs", str(num_envs), "--task", task(name), "--logdir", str(logdir)]
    assert main(arguments) == 2
    text = capfd.readouterr().err
    assert text.startswith(f"run_agent.py: error: {line.replace('NAME', task(name))}")
    assert text.count("\n") == 1
    assert not logdir.exists()


def test_a_process_of_its_own_tells_the_same(tmp_path):
    status, text = run(tmp_path / "run", *TRAIN, "--task", task("RewardNone"))
    assert (status, text.count("\n")) == (2, 1)
    assert text.startswith("run_agent.py: error: step: got a reward of None")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["RewardArray", "DrawsRGBA", "ClosingRaises"])
def test_what_can_be_taken_is_trained_on(tmp_path, name):
    assert main([*TRAIN, "--task", task(name), "--logdir", str(tmp_path / "run")]) == 0
    assert list((tmp_path / "run" / "checkpoints").glob("*.pt"))


@pytest.mark.parametrize(("backend", "name"), [
    ("glfw", "cartpole_swingup"), ("nonsense", "gym:HalfCheetah-v5"),
    pytest.param("nonsense", "cartpole_swingup", marks=pytest.mark.slow),
    pytest.param("glfw", "gym:HalfCheetah-v5", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_gl_backend_that_cannot_draw_is_one_line(tmp_path, backend, name):
    status, text = run(tmp_path / "run", *TRAIN, "--task", name, MUJOCO_GL=backend, DISPLAY="", WAYLAND_DISPLAY="")
    lines = [line for line in text.splitlines() if not line.startswith("WARNING: compiler attribute")]  # MuJoCo's
    assert (status, len([line for line in lines if line])) == (2, 1)
    assert lines[-1].startswith("run_agent.py: error: ")
    assert not (tmp_path / "run").exists()


def test_environments_that_fail_at_their_first_reset_are_one_line():
    def make(**starts):
        env = make_vector_env("reaching", 1)
        env.reset = lambda **settings: 1 / 0
        return env

    with (
        Driver(make(), remake=make) as driver,
        pytest.raises(EnvironmentFailure, match=r"first reset: ZeroDivisionError"),
    ):
        driver.tick(lambda step: np.zeros((1, 1)))
    with Driver(make()) as driver, pytest.raises(ZeroDivisionError):
        driver.tick(lambda step: np.zeros((1, 1)))


# ---------------------------------------------------------------- env.* settings


def length_of(env):
    """Steps of an episode of nothing."""
    env.reset()
    for count in range(1, 100):
        *_, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape, np.float32))
        if terminated or truncated:
            return count
    raise AssertionError


def test_every_setting_of_env_reaches_every_environment():
    settings = {"env.kwargs": {"length": 9}, "env.num_envs": 1, "env.action_repeat": 2}
    config = make_config("debug", "counting", settings)
    with agent_env(config) as env:
        assert length_of(env) == 5
    collector = Collector(config)
    driver = collector.driver
    rows = [driver.tick(lambda step: np.zeros((1, 2))) for _ in range(7)]
    driver.close()
    assert [bool(row.is_last[0]) for row in rows] == [False] * 5 + [True, False]


def test_no_field_of_env_is_left_out():
    elsewhere = {"num_envs", "max_episode_frames", "collectors", "ray", "weights_every", "max_lag"}
    assert set(EnvConfig().options()) == {item.name for item in fields(EnvConfig)} - elsewhere
    settings = {"camera": "top", "kwargs": {"a": 1}, "render": "fast", "action_repeat": 3, "size": 96}
    settings |= {"wrappers": {"ClipReward": {"min_reward": -1}}, "vector": True}
    assert EnvConfig(**settings).options() == settings


def test_arguments_come_from_the_command_line_and_stay_with_the_run(tmp_path, capsys):
    logdir = tmp_path / "run"
    kwargs = ["--env.kwargs", "{length: 12, is_terminating: true}"]
    assert main([*TRAIN, *kwargs, "--logdir", str(logdir)]) == 0
    written = yaml.safe_load((logdir / "config.yaml").read_text())["env"]
    assert written["kwargs"] == {"length": 12, "is_terminating": True}
    more = ["train", "--logdir", str(logdir), "--resume", "--quiet", "--env_frames", "130"]
    assert main(more) == 0
    for changed in ('{"length": 12}', "{}", "{length: 13, is_terminating: true}"):
        assert main([*more, "--env.kwargs", changed]) == 2
        assert "holds another run (env.kwargs: {'length': 12, 'is_terminating': True} -> " in capsys.readouterr().err
    assert main([*more, *kwargs, "--env_frames", "140"]) == 0
    assert main(["evaluate", "--logdir", str(logdir), "--episodes", "1"]) == 0


@pytest.mark.parametrize("kwargs", ["5", "[1]", "length", "{length: [}", "{lngth: 3}", "{length: .nan}", "{worker: 3}"])
def test_arguments_that_are_none_are_one_line(tmp_path, capsys, kwargs):
    assert main([*TRAIN, "--env.kwargs", kwargs, "--logdir", str(tmp_path / "run")]) == 2
    text = capsys.readouterr().err
    assert "env.kwargs" in text
    assert text.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_config_yaml_takes_plain_arguments_only(tmp_path):
    path = tmp_path / "config.yaml"
    config = make_config("cpu", "gym:My-v0?a=1", {"env.kwargs": {"b": [1, {"c": None}]}, "env.camera": "top"})
    save_config(config, path)
    assert load_config(path) == config
    for bad in ("[1]", "3", "{b: .inf}", "{1: 2}", "{b: 2020-01-01}"):
        path.write_text(f"env: {{kwargs: {bad}}}")
        with pytest.raises(
            ValueError, match=r"config.yaml: env.kwargs: got [^\n]*, expected a mapping of plain values$"
        ):
            load_config(path)


def test_arguments_are_another_run_and_the_same_rows_of_a_preset():
    first = make_config("cpu", "cartpole_swingup")
    other = make_config("cpu", "cartpole_swingup", {"env.kwargs": {"time_limit": 5}})
    assert differences(first, other) == ["env.kwargs: {} -> {'time_limit': 5}"]
    assert differences(other, first) == ["env.kwargs: {'time_limit': 5} -> {}"]
    named = load_preset("cpu", "cartpole_swingup?time_limit=5")
    assert named == load_preset("cpu", "cartpole_swingup") | {"task": "cartpole_swingup?time_limit=5"}


def test_a_run_with_arguments_goes_on_bit_for_bit(tmp_path):
    settings = {"env.kwargs": {"length": 7}, "env_frames": 140, "env.num_envs": 2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    Trainer(make_config("debug", "counting", settings), whole, quiet=True).run()
    for frames in (116, 140):
        config = make_config("debug", "counting", {**settings, "env_frames": frames})
        Trainer(config, parts, resume=frames == 140, quiet=True).run()
    left, right = (list(EpisodeStore(folder / "episodes").load_all()) for folder in (whole, parts))
    assert len(left) == len(right) > 10
    for ours, theirs in zip(left, right, strict=True):
        assert len(ours.reward) == 8  # seven env_frames and the reset's frame
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
