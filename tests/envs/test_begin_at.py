"""An environment that begins in the middle of an episode is the one that was there, whatever it did before."""

import os
import signal
from functools import partial

import numpy as np
import pytest

from envs import Driver, make_env, make_vector_env
from envs.driver import EnvironmentFailure, episode_starts
from envs.pixels import EpisodeStart

# Targets written into the model at reset, contacts with warm starts, terrain, a model made from the constructor's seed.
TASKS = ["reaching", "counting", "reacher_easy", "walker_walk", "finger_turn_hard", "quadruped_escape", "lqr_lqr_2_1"]


def make(task):
    return make_env(task, seed=4, action_repeat=2, size=24, render="fast")


def play(env, actions):
    """Frames and rewards of steps with `actions`."""
    frames, rewards = [], []
    for action in actions:
        frame, reward, *_ = env.step(action)
        frames.append(frame.copy())
        rewards.append(reward)
    return np.stack(frames), np.array(rewards)


@pytest.mark.parametrize("task", TASKS)
def test_the_middle_of_a_later_episode_is_found_again(task):
    env, again = make(task), make(task)
    dim = env.action_space.shape[0]
    length = 3 if task == "counting" else 6  # its episodes have 5 steps
    actions = np.random.default_rng(0).uniform(-1, 1, (length + 2, dim)).astype(np.float32)
    env.reset()
    play(env, actions[:2])
    env.reset()  # episode 1
    frames, rewards = play(env, actions)
    again.begin_at(EpisodeStart(1, actions[:length]))
    frame, _ = again.reset()
    np.testing.assert_array_equal(frame, frames[length - 1])
    if task in ("reaching", "counting"):
        found_frames, found_rewards = play(again, actions[length:])
        np.testing.assert_array_equal(found_frames, frames[length:])
        np.testing.assert_array_equal(found_rewards, rewards[length:])
    else:
        _, found = play(again, actions[length:])
        np.testing.assert_array_equal(found, rewards[length:])
        for name in ("qpos", "qvel", "qacc_warmstart", "ctrl"):
            left, right = (getattr(e._env.physics.data, name) for e in (env, again))
            np.testing.assert_array_equal(left, right, err_msg=name)
    env.close()
    again.close()


def test_an_episode_that_has_yet_to_begin_begins_at_the_next_step():
    env, again = make("reaching"), make("reaching")
    firsts = [env.reset()[0].copy() for _ in range(3)]
    again.begin_at(EpisodeStart(2, None))
    again.reset()
    frame, reward, terminated, truncated, _ = again.step(np.zeros(1))
    np.testing.assert_array_equal(frame, firsts[2])
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert again.episode == 2


def test_an_episode_is_a_function_of_seed_number_and_actions_alone():
    env, other = make("reaching"), make("reaching")
    env.reset()
    play(env, np.ones((5, 1)))
    other.reset()
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])
    assert (env.reset()[0] != make("reaching").reset()[0]).any()
    np.testing.assert_array_equal(env.reset(seed=9)[0], other.reset(seed=9)[0])


def test_actions_beyond_an_episodes_end_are_one_line():
    env = make("counting")
    env.begin_at(EpisodeStart(0, np.zeros((9, 2), np.float32)))
    with pytest.raises(ValueError, match=r"^start: episode 0 of counting ended after 5 actions, expected more than 9$"):
        env.reset()
    with pytest.raises(ValueError, match=r"^episode: got -1"):
        env.begin_at(EpisodeStart(-1, None))


# ---------------------------------------------------------------- the driver


def wave(step):
    """A policy that depends on what it sees."""
    value = step.image.reshape(len(step.image), -1).mean(1) / 128 - 1
    return np.broadcast_to(value[:, None], step.action.shape)


def rows_of(driver, ticks):
    return [driver.tick(wave) for _ in range(ticks)]


def assert_rows_equal(left, right):
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("num_envs", "stops"), [(1, (1, 9, 26, 27, 40)), (2, (26, 40))])
def test_a_driver_goes_on_from_its_state_at_any_row(num_envs, stops):
    """26 rows an episode: stops at its first row, inside, at its last row and at the first of the next one."""
    for stop in stops:
        with Driver(make_vector_env("reaching", num_envs, seed=3)) as driver:
            rows_of(driver, stop)
            state = driver.state_dict()
            expected = rows_of(driver, 30)
        envs = make_vector_env("reaching", num_envs, seed=3, starts=episode_starts(state))
        with Driver(envs, state=state) as again:
            assert_rows_equal(rows_of(again, 30), expected)


def test_a_frame_that_is_not_the_one_before_the_stop_is_told(caplog):
    with Driver(make_vector_env("reaching", 1, seed=3)) as driver:
        rows_of(driver, 5)
        state = driver.state_dict()
    Driver(make_vector_env("reaching", 1, seed=4, starts=episode_starts(state)), state=state).close()
    assert "environment 0: its observation differs from the one before the stop" in caplog.text


def test_a_state_before_the_first_tick_is_refused():
    with pytest.raises(ValueError, match="got no completed tick"):
        Driver(make_vector_env("counting")).state_dict()


def test_starts_must_be_one_for_each_environment():
    with pytest.raises(ValueError, match=r"^starts: got 1, expected 2"):
        make_vector_env("counting", 2, starts=[EpisodeStart(0, None)])


class Failing:
    """Environments of the counting task, of which one raises, or pays nan, whenever its step is one of `steps`."""

    def __init__(self, steps, num_envs=1, fault="raise"):
        self.steps, self.num_envs, self.fault, self.made = set(steps), num_envs, fault, []

    def __call__(self, starts=None):
        envs = make_vector_env("counting", self.num_envs, size=8, length=6, starts=starts)
        inner = envs.envs[-1]
        advance, failing = inner._advance, self

        def advance_or_fail(action):
            result = advance(action)
            number = (inner.episode, inner._step)
            if number in failing.steps:
                failing.steps.discard(number)
                if failing.fault == "nan":
                    return np.nan, False, False
                raise FloatingPointError("the physics blew up")
            return result

        inner._advance = advance_or_fail
        self.made.append(envs)
        return envs


@pytest.mark.parametrize("fault", ["raise", "nan"])
def test_an_environment_that_fails_starts_again_and_its_episode_is_cut(caplog, fault):
    make_failing = Failing([(1, 3)], fault=fault)
    cuts, images = [], []
    with Driver(make_failing(), remake=make_failing) as driver:
        for _ in range(20):
            row = driver.tick(lambda step: np.zeros((1, 2)))
            cuts.append(driver.cut)
            images.append(tuple(int(x) for x in row.image[0, -1, 0, 1:]))  # (episode, step)
        assert driver.restarts == 1
    expected = [(0, t) for t in range(7)] + [(1, 0), (1, 1), (1, 2)] + [(2, t) for t in range(7)]
    assert images[: len(expected)] == expected
    assert [i for i, cut in enumerate(cuts) if cut] == [10]  # the first row of episode 2
    assert cuts[10] == (0,)
    assert "environment 0" in caplog.text
    assert "its episode ends after 3 steps" in caplog.text


def test_failures_without_an_end_of_an_episode_give_up():
    make_failing = Failing([(episode, 2) for episode in range(10)])
    with Driver(make_failing(), remake=make_failing) as driver:
        with pytest.raises(EnvironmentFailure, match=r"environment 0 failed after 3 restarts .*: the physics blew up"):
            rows_of(driver, 40)
        assert driver.state_dict()["episodes"] == [3]  # what a checkpoint needs is still there


@pytest.mark.parametrize("kind", ["killed", "stopped"])
def test_a_lost_worker_is_replaced_and_the_others_lose_nothing(monkeypatch, kind):
    monkeypatch.setattr("envs.workers._CLOSE_SECONDS", 0.5)
    remake = partial(make_vector_env, "counting", 2, size=8, length=6)
    with Driver(remake(), remake=remake, timeout=20 if kind == "killed" else 2) as driver:
        for _ in range(3):
            driver.tick(lambda step: np.zeros((2, 2)))
        victim = driver._workers.processes[1]
        os.kill(victim.pid, signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
        seen = []
        while not driver.cut:
            row = driver.tick(lambda step: np.zeros((2, 2)))
            seen.append([tuple(int(x) for x in image[-1, 0, 1:]) for image in row.image])
        assert driver.cut == (1,)
        last = seen[-1]
        assert last[1] == (1, 0)  # the lost one begins its next episode
        assert last[0] == (0, 2 + len(seen))  # the other one goes on
        assert not victim.is_alive()
