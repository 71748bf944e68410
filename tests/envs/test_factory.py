"""Names, registration and vector environments."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from envs import make_env, make_vector_env, task_names
from envs.factory import register_tasks
from envs.tasks import SUITE_TASKS


def test_importing_is_light_and_silent():
    heavy = "{'torch', 'dm_control', 'mujoco', 'imageio', 'imageio_ffmpeg'}"
    script = f"import sys, envs; print(sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-W", "error", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_every_suite_task_is_registered_once():
    register_tasks()  # a second time: gymnasium would warn about an overwritten id
    for task in SUITE_TASKS:
        assert gymnasium.spec(f"dmc_pixels/{task}-v0").kwargs == {"task": task}


def test_gymnasium_make_passes_arguments_on():
    env = gymnasium.make("dmc_pixels/cartpole_swingup-v0", action_repeat=4, size=32, render="fast", seed=3)
    frame, _ = env.reset()
    np.testing.assert_array_equal(frame, make_env("cartpole_swingup", size=32, render="fast", seed=3).reset()[0])
    env.step(env.action_space.sample())
    assert env.unwrapped.action_repeat == 4
    env.close()


def test_task_names_are_all_known():
    names = task_names()
    assert {"cartpole_swingup", "ball_in_cup_catch", "counting", "reaching"} < set(names)
    assert names == sorted(set(names))


@pytest.mark.parametrize("make", [make_env, make_vector_env])
@pytest.mark.parametrize(
    ("task", "nearest"),
    [("cartpole_swingp", "cartpole_swingup"), ("walker-walk", "walker_walk"), ("Reaching", "reaching"), ("", "")],
)
def test_unknown_tasks_name_the_nearest(make, task, nearest):
    with pytest.raises(ValueError, match=rf"^task: got '{task}', expected [^\n]*'{nearest}[^\n]*$"):
        make(task)


def test_bad_arguments_are_one_line():
    for arguments, named in (
        ({"task": "counting", "num_envs": 0}, "num_envs"),
        ({"task": "counting", "seed": -2}, "seed"),
        ({"task": "reaching", "render": "nice"}, "render"),
        ({"task": "reaching", "size": "64"}, "size"),
    ):
        with pytest.raises(ValueError, match=rf"^{named}: got [^\n]*expected [^\n]*$"):
            make_vector_env(**arguments)


def test_action_repeat_defaults_to_2_for_the_suite_and_1_for_our_own():
    repeats = {task: make_env(task, render="fast").action_repeat for task in ("walker_walk", "counting", "reaching")}
    assert repeats == {"walker_walk": 2, "counting": 1, "reaching": 1}
    assert make_env("reaching", action_repeat=3).action_repeat == 3


def test_one_environment_stays_in_this_process():
    env = make_vector_env("reaching", 1, seed=5)
    assert isinstance(env, SyncVectorEnv)
    frames, _ = env.reset()
    assert frames.shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(frames, make_vector_env("reaching", 1, seed=5).reset()[0])
    assert (frames != make_vector_env("reaching", 1, seed=6).reset()[0]).any()


def test_workers_of_the_suite_have_their_own_seeds_and_the_same_frames_every_time():
    def first_frames():
        env = make_vector_env("cartpole_swingup", 2, seed=5, render="fast")
        frames, _ = env.reset()
        frames_next, *_ = env.step(np.zeros((2, 1), np.float32))
        env.close()
        return np.stack([frames, frames_next])

    frames = first_frames()
    assert (frames[:, 0] != frames[:, 1]).any()
    np.testing.assert_array_equal(frames, first_frames())
