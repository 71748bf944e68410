"""DMCPixels against dm_control itself: the same frames, rewards, bounds and ends."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from envs import make_env
from envs.dmc import DMCPixels
from envs.tasks import SUITE_TASKS


def rollout(env, seed, length=4):
    """Return frames and rewards of `length` steps under fixed actions."""
    frames, rewards = [env.reset(seed=seed)[0]], []
    for action in np.random.default_rng(0).uniform(-1, 1, (length, *env.action_space.shape)).astype(np.float32):
        frame, reward, *_ = env.step(action)
        frames.append(frame)
        rewards.append(reward)
    return np.stack(frames), np.array(rewards)


# One of each kind that matters here: unbounded actuators, another camera, targets in the model, many joints
SPECIAL = ("cartpole_swingup", "dog_stand", "humanoid_CMU_walk", "lqr_lqr_2_1", "quadruped_escape", "reacher_easy")


@pytest.mark.parametrize(
    "task", [task if task in SPECIAL else pytest.param(task, marks=pytest.mark.slow) for task in SUITE_TASKS]
)
def test_passes_gymnasium_and_sb3_check_env(task):
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    env = gymnasium.make(f"dmc_pixels/{task}-v0", render="fast", size=48).unwrapped
    check_env(env, skip_render_check=task not in SPECIAL)  # which makes the environment again
    sb3_check_env(env)
    env.close()


def test_static_list_equals_the_suite():
    from dm_control import suite

    assert tuple(SUITE_TASKS.values()) == tuple(suite.ALL_TASKS)
    assert all(name == f"{domain}_{task}" for name, (domain, task) in SUITE_TASKS.items())


@pytest.mark.parametrize("task", ["cartpole_swingup", "reacher_easy"])  # reacher writes its target into the model
def test_seed_decides_the_rollout(task):
    env, other = make_env(task, seed=5, render="fast"), make_env(task, seed=9, render="fast")
    frames, rewards = rollout(env, seed=None)  # the constructor's seed
    for same_frames, same_rewards in (rollout(other, seed=5), rollout(env, seed=5)):
        np.testing.assert_array_equal(frames, same_frames)
        np.testing.assert_array_equal(rewards, same_rewards)
    assert (rollout(env, seed=6)[0] != frames).any()
    assert (rollout(env, seed=None)[0] != frames).any()  # only the first reset takes the constructor's seed


def test_action_repeat_sums_rewards_and_shows_the_last_frame():
    single = make_env("walker_walk", seed=1, action_repeat=1, render="fast")
    triple = make_env("walker_walk", seed=1, action_repeat=3, render="fast")
    np.testing.assert_array_equal(single.reset()[0], triple.reset()[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 6)).astype(np.float32):
        steps = [single.step(action) for _ in range(3)]
        frame, reward, *_ = triple.step(action)
        assert reward == pytest.approx(sum(step[1] for step in steps), rel=1e-12)
        np.testing.assert_array_equal(frame, steps[-1][0])


def test_time_limit_truncates_and_a_broken_repeat_ends_there():
    env = make_env("cartpole_swingup", action_repeat=300, size=8, render="fast")
    env.reset()
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(4)]  # 300 + 300 + 300 + 100 = 1000 control steps
    assert ends == [(False, False)] * 3 + [(False, True)]
    with pytest.raises(ResetNeeded):
        env.step(np.zeros(1, np.float32))
    env.reset()
    assert env.step(np.zeros(1, np.float32))[2:4] == (False, False)


def test_discount_zero_terminates_and_stops_the_repeat(monkeypatch):
    env = make_env("cartpole_balance", action_repeat=10, size=8, render="fast")
    monkeypatch.setattr(env._env.task, "get_termination", lambda physics: 0.0)
    env.reset()
    _, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
    assert (terminated, truncated) == (True, False)
    assert 0 < reward <= 1  # one control step pays at most 1; ten would pay nearly ten


def test_actions_span_the_tasks_own_bounds():
    env = make_env("quadruped_walk", size=8, render="fast")
    spec = env._env.action_spec()
    assert (spec.maximum != 1).any()
    env.reset()
    for sign, bound in ((1, spec.maximum), (-1, spec.minimum)):
        env.step(np.full(12, sign, np.float32))
        np.testing.assert_allclose(env._env.physics.control(), bound, rtol=1e-12)
    env.step(np.full(12, 7, np.float32))  # out of range: clipped
    np.testing.assert_allclose(env._env.physics.control(), spec.maximum, rtol=1e-12)


def test_actuators_without_bounds_get_actions_as_they_are():
    env = make_env("lqr_lqr_2_1", size=8, render="fast")
    env.reset()
    env.step(np.array([0.25], np.float32))
    np.testing.assert_allclose(env._env.physics.control(), [0.25], rtol=1e-12)


def test_render_returns_the_agents_frame_and_spaces_tell_its_size():
    env = make_env("cartpole_swingup", size=40, render="fast")
    frame, info = env.reset()
    assert frame.shape == env.observation_space.shape == (40, 40, 3)
    assert info == {}
    np.testing.assert_array_equal(env.render(), frame)
    env.render()[:] = 0
    assert frame.any()
    assert env.metadata["render_fps"] == pytest.approx(50)  # 100 control steps a second, repeated twice
    assert (env.task, env.action_repeat) == ("cartpole_swingup", 2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"task": "counting"}, "task"),
        ({"task": "cartpole_swingup", "action_repeat": 0}, "action_repeat"),
        ({"task": "cartpole_swingup", "size": 0.5}, "size"),
        ({"task": "cartpole_swingup", "seed": -1}, "seed"),
        ({"task": "cartpole_swingup", "render": "nice"}, "render"),
        ({"task": "cartpole_swingup", "camera_id": 9}, "camera_id"),
        ({"task": "cartpole_swingup", "render_mode": "human"}, "render_mode"),
    ],
)
def test_bad_arguments_are_one_line(arguments, named):
    with pytest.raises(ValueError, match=rf"^{named}: got [^\n]*expected [^\n]*$"):
        DMCPixels(**arguments)


@pytest.mark.parametrize("action", [[np.nan], [np.inf], [0.0, 0.0], 0.0, "left", None])
def test_bad_actions_are_one_line_and_change_nothing(action):
    env = make_env("cartpole_swingup", size=8, render="fast")
    env.reset()
    before = env._env.physics.get_state()
    with pytest.raises(ValueError, match=r"^action: got [^\n]*expected [^\n]*$"):
        env.step(action)
    np.testing.assert_array_equal(env._env.physics.get_state(), before)


def test_needs_a_reset_first_and_is_over_after_close():
    env = make_env("cartpole_swingup", size=8, render="fast")
    calls = (lambda: env.step(np.zeros(1)), env.render, lambda: env.render_frame(8))
    for call in calls:
        with pytest.raises(ResetNeeded):
            call()
    env.reset()
    env.close()
    env.close()
    for call in calls:
        with pytest.raises(ResetNeeded):
            call()


def test_the_simulator_state_is_named_by_joint():
    env = make_env("cartpole_swingup", seed=3, render="fast", size=8)
    env.reset()
    for _ in range(5):
        env.step(np.ones(1, np.float32))
    state, physics = env.simulator_state(), env._env.physics
    places, speeds = ["qpos/slider", "qpos/sin hinge_1", "qpos/cos hinge_1"], ["qvel/slider", "qvel/hinge_1"]
    assert list(state) == [*places, *speeds, "contacts"]
    assert state["qpos/slider"] == physics.cart_position()
    assert state["qpos/cos hinge_1"] == pytest.approx(physics.pole_angle_cosine())
    assert state["qvel/slider"] == physics.named.data.qvel["slider"]
    assert state["qvel/slider"] > 0  # pushed to the right
    assert state["contacts"] == 0  # nothing to touch


def test_contacts_are_counted_once_the_walker_has_fallen():
    env = make_env("walker_walk", seed=0, render="fast", size=8)
    env.reset()
    counts = []
    for _ in range(60):
        env.step(np.zeros(6, np.float32))
        counts.append(env.simulator_state()["contacts"])
    assert counts[-1] >= 2  # it lies on the floor
    assert len(set(counts)) > 1


def test_the_simulator_state_of_joints_with_several_coordinates():
    env = make_env("quadruped_walk", render="fast", size=8)
    env.reset()
    state, data = env.simulator_state(), env._env.physics.data
    assert len(state) == len(data.qpos) + len(data.qvel) + 1  # all of its hinges have limits; contacts
    assert [state[f"qpos/root {i}"] for i in range(7)] == data.qpos[:7].tolist()
    assert "qvel/root 5" in state
    assert "qvel/root 6" not in state
