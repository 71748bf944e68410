"""The GL backend, the cached camera and the render profiles, against physics.render()."""

import os
import subprocess
import sys

import numpy as np
import pytest

from envs import make_env, rendering
from envs.rendering import RenderingError, choose_gl_backend


def physics_render(env, camera_id=0, size=64):
    return env._env.physics.render(size, size, camera_id=camera_id)


@pytest.mark.parametrize("task", ["cartpole_swingup", "quadruped_fetch", "finger_turn_easy"])
def test_standard_is_bit_identical_to_physics_render_over_resets(task):
    camera_id = 2 if task.startswith("quadruped") else 0  # Dreamer's cameras
    env = make_env(task, seed=3)
    for _ in range(2):
        frame, _ = env.reset()
        np.testing.assert_array_equal(frame, physics_render(env, camera_id))
        frame, *_ = env.step(np.ones(env.action_space.shape, np.float32))
        np.testing.assert_array_equal(frame, physics_render(env, camera_id))
    assert frame.flags.owndata
    env.close()


def test_large_frames_leave_the_agents_frames_as_they_are():
    env, plain = make_env("cartpole_swingup", seed=2), make_env("cartpole_swingup", seed=2)
    env.reset(), plain.reset()
    assert env.render_frame(720, 1000).shape == (720, 1000, 3)  # models allow 480 x 640
    assert env.render_frame(96).shape == (96, 96, 3)
    action = np.ones(1, np.float32)
    np.testing.assert_array_equal(env.step(action)[0], plain.step(action)[0])


def test_a_large_frame_shows_the_same_scene():
    env = make_env("walker_walk", seed=2)
    frame, _ = env.reset()
    large = env.render_frame(512).astype(float)
    shrunk = large.reshape(64, 8, 64, 8, 3).mean((1, 3))
    assert np.abs(shrunk - frame).mean() < 4  # edges and the floor's texture are sampled more finely


@pytest.mark.parametrize("task", ["cartpole_swingup", "walker_walk", "ball_in_cup_catch"])
def test_fast_differs_little_from_standard(task):
    standard, fast = make_env(task, seed=4), make_env(task, seed=4, render="fast")
    difference = np.abs(standard.reset()[0].astype(int) - fast.reset()[0]).mean()
    assert 0 < difference < 8


def test_frames_are_upright():
    def mean_row(task):
        frame = make_env(task, render="fast").reset()[0].astype(int)
        rows, _ = np.nonzero(frame[..., 0] > frame[..., 2] + 40)  # cart and pole are the only tan things
        return rows.mean()

    # Balance starts with the pole above the cart, swingup with the pole below it.
    assert mean_row("cartpole_balance") + 5 < mean_row("cartpole_swingup")


def test_a_backend_that_is_already_chosen_is_kept(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "mine")
    monkeypatch.setattr(rendering, "probe", lambda *_: pytest.fail("probed again"))
    assert choose_gl_backend() == "mine"


def test_the_first_backend_that_draws_is_chosen_and_remembered(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    backend = choose_gl_backend()
    assert backend in rendering.BACKENDS
    assert os.environ["MUJOCO_GL"] == backend


def test_without_any_backend_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(rendering, "BACKENDS", ("nonsense",))
    with pytest.raises(RenderingError, match=r"^[^\n]*nonsense[^\n]*install libegl1 libgl1-mesa-dri$"):
        choose_gl_backend()
    assert os.environ["MUJOCO_GL"] == ""
    assert rendering.probe("egl", timeout=0.001) == "no answer in 0.001 s"


def test_a_named_backend_that_cannot_load_is_one_line():
    script = "from envs import make_env\ntry: make_env('cartpole_swingup')\nexcept RuntimeError as e: print(e)"
    environment = {**os.environ, "MUJOCO_GL": "nonsense"}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    assert result.stdout.startswith("MUJOCO_GL=nonsense cannot be loaded")
    assert result.stdout.count("\n") == 1
