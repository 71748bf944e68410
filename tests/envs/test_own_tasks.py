"""CountingEnv and ReachingEnv: what their frames, rewards and ends must be by their definitions."""

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs import make_env
from envs.counting import decode_frame


@pytest.mark.parametrize("task", ["counting", "reaching"])
@pytest.mark.parametrize("action_repeat", [1, 2])
def test_passes_gymnasium_and_sb3_check_env(task, action_repeat):
    env = make_env(task, action_repeat=action_repeat, size=48)
    check_env(env, skip_render_check=True)  # it warns where an environment has no gymnasium id
    sb3_check_env(env)


def test_counting_frames_say_worker_episode_and_step():
    env = make_env("counting", worker=300, length=3, action_dim=4, size=9)
    action = np.zeros(4, np.float32)
    for episode in range(3):
        frames, rewards, ends = [env.reset()[0]], [], []
        for _ in range(3):
            frame, reward, terminated, truncated, _ = env.step(action)
            frames.append(frame)
            rewards.append(reward)
            ends.append((terminated, truncated))
        worker, episodes, steps = decode_frame(np.stack(frames))
        assert worker.tolist() == [300] * 4
        assert episodes.tolist() == [episode] * 4
        assert steps.tolist() == [0, 1, 2, 3]
        assert rewards == [1, 2, 3]
        assert ends == [(False, False)] * 2 + [(False, True)]


def test_counting_decodes_two_bytes_and_batches():
    env = make_env("counting", length=700, action_repeat=699)
    env.reset()
    frame, reward, *_ = env.step(np.zeros(2, np.float32))
    assert decode_frame(frame)[2] == 699
    assert reward == 699 * 700 / 2
    assert decode_frame(np.broadcast_to(frame, (2, 5, 64, 64, 3)))[2].shape == (2, 5)
    with pytest.raises(ValueError, match=r"^image: got float64"):
        decode_frame(np.zeros((4, 4, 3)))


def test_counting_repeats_and_may_terminate():
    env = make_env("counting", length=5, action_repeat=2, is_terminating=True)
    env.reset()
    rewards, ends = zip(*[env.step(np.zeros(2, np.float32))[1:3] for _ in range(3)], strict=True)
    assert rewards == (1 + 2, 3 + 4, 5)
    assert ends == (False, False, True)


@pytest.mark.parametrize("options", [{"length": 0}, {"length": 2**16}, {"worker": -1}, {"size": 1}, {"action_dim": 0}])
def test_counting_bad_numbers_are_one_line(options):
    with pytest.raises(ValueError, match=rf"^{next(iter(options))}: got [^\n]*expected [^\n]*$"):
        make_env("counting", **options)


def disc_center(frame, is_agent):
    """Return the centre (x, y) in arena units of the red or the green disc, from pixels alone."""
    strong, weak = (0, 1) if is_agent else (1, 0)
    excess = np.clip(frame[..., strong].astype(float) - frame[..., weak] - 20, 0, None)
    center = (np.arange(len(frame)) + 0.5 - len(frame) / 2) / (len(frame) / 2.6)
    return np.array([(excess.sum(0) * center).sum(), -(excess.sum(1) * center).sum()]) / excess.sum()


def test_reaching_moves_the_red_disc_and_pays_by_distance():
    env = make_env("reaching", seed=0, size=240, axes=2)
    checked = 0
    for seed in range(20):
        frame, _ = env.reset(seed=seed)
        agent, target = disc_center(frame, True), disc_center(frame, False)
        assert np.abs(np.stack([agent, target])).max() < 1.02
        assert np.linalg.norm(agent - target) > 0.68  # at least 0.7, seen to within a few hundredths
        action = np.array([0.6, -0.4], np.float32)
        frame, reward, *_ = env.step(action)
        moved = np.clip(agent + 0.25 * action, -1, 1)
        distance = np.linalg.norm(moved - target)
        assert reward == pytest.approx(np.exp(-((distance / 0.4) ** 2)), abs=0.03)
        if distance > 0.62:  # the discs do not overlap, so both centres can be read
            np.testing.assert_allclose(disc_center(frame, True), moved, atol=0.02)
            np.testing.assert_allclose(disc_center(frame, False), target, atol=0.02)
            checked += 1
    assert checked > 8


def test_the_simulator_state_of_reaching_is_what_its_frame_shows():
    env = make_env("reaching", size=240, axes=2)
    for seed in range(5):
        frame, _ = env.reset(seed=seed)
        state = env.simulator_state()
        np.testing.assert_allclose(disc_center(frame, True), [state["agent/x"], state["agent/y"]], atol=0.02)
        np.testing.assert_allclose(disc_center(frame, False), [state["target/x"], state["target/y"]], atol=0.02)


def test_reaching_along_one_axis_stays_on_its_line():
    env = make_env("reaching", seed=0, size=240)
    assert env.action_space.shape == (1,)
    for seed in range(5):
        frame, _ = env.reset(seed=seed)
        for is_agent in (True, False):
            assert disc_center(frame, is_agent)[1] == pytest.approx(-0.5, abs=0.02)


def test_reaching_frames_show_movements_smaller_than_a_pixel():
    env = make_env("reaching", seed=1)
    frame, _ = env.reset()
    nudged, *_ = env.step(np.array([0.02], np.float32))  # 0.005 units: an eighth of a pixel of 64
    assert (nudged != frame).any()


@pytest.mark.parametrize("axes", [1, 2])
def test_reaching_lasts_25_frames_and_the_expert_is_unbeaten(axes):
    env = make_env("reaching", seed=0, axes=axes)
    generator = np.random.default_rng(0)
    for seed in range(5):
        returns = []
        for is_expert in (True, False):
            env.reset(seed=seed)
            total, steps, truncated = 0.0, 0, False
            while not truncated:
                noise = 0 if is_expert else generator.normal(0, 0.3, axes)
                _, reward, terminated, truncated, _ = env.step(env.expert_action() + np.float32(noise))
                total, steps = total + reward, steps + 1
                assert not terminated
            assert steps == 25
            returns.append(total)
        assert 15 < returns[0] <= 25  # at most 2 / 0.25 = 8 frames on the way, then 1 a frame
        assert returns[0] > returns[1]


def test_own_tasks_follow_their_seeds():
    first, second = make_env("reaching", seed=3), make_env("reaching", seed=3)
    np.testing.assert_array_equal(first.reset()[0], second.reset()[0])
    assert (first.reset()[0] != second.reset(seed=3)[0]).any()
    assert (make_env("reaching", seed=4).reset()[0] != second.reset(seed=3)[0]).any()
