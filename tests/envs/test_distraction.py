"""Distracting pictures: the task stays what it is, and what changes is a function of the episode's seed."""

import gymnasium
import numpy as np
import pytest

from agent.config.presets import make_config
from agent.evaluation.references import nearest_references
from envs import make_env, make_vector_env
from envs.distraction import COLOR_SHIFT, Background
from envs.pixels import EpisodeStart
from envs.tasks import DISTRACTING, SUITE_TASKS, base_task, is_distracting, task_names

PLANET = ("cartpole_swingup", "reacher_easy", "cheetah_run", "finger_spin", "ball_in_cup_catch", "walker_walk")
FOLLOWED = ("cheetah_run", "walker_walk")  # the camera moves with the body, so the floor stays


def play(env, seed, steps=5):
    """Return the frames and rewards of a seed's first steps under seeded actions."""
    random = np.random.default_rng(seed)
    frame, _ = env.reset(seed=seed)
    frames, rewards = [frame], []
    for _ in range(steps):
        frame, reward, *_ = env.step(random.uniform(-1, 1, env.action_space.shape))
        frames.append(frame)
        rewards.append(reward)
    return np.array(frames), np.array(rewards)


@pytest.mark.parametrize("task", PLANET)
def test_rewards_and_states_are_those_of_the_task(task):
    clean, distracting = make_env(task, render="fast"), make_env(task + DISTRACTING, render="fast")
    (frames, rewards), (others, gained) = play(clean, 1), play(distracting, 1)
    np.testing.assert_array_equal(rewards, gained)
    assert clean.simulator_state() == distracting.simulator_state()
    assert (frames != others).any(-1).mean() > (0.5 if task in FOLLOWED else 0.95)
    assert clean.action_space == distracting.action_space
    assert distracting.task == task + DISTRACTING


@pytest.mark.parametrize("render", ["fast", "standard"])
def test_an_episode_is_a_function_of_its_seed(render):
    task = "cartpole_swingup-distract"
    frames, _ = play(make_env(task, render=render), 3)
    again = make_env(task, render=render)
    play(again, 4)  # what came before does not matter
    np.testing.assert_array_equal(play(again, 3)[0], frames)
    assert frames.dtype == np.uint8
    assert frames.shape == (6, 64, 64, 3)


def test_the_background_differs_between_episodes_and_workers_and_moves_within_an_episode():
    env = make_env("reacher_easy-distract", seed=0, render="fast")
    first, _ = env.reset()
    moved = env.step(np.zeros(2, np.float32))[0]
    assert 0.5 < np.abs(moved.astype(float) - first).mean() < 30  # a little from one frame to the next
    second, _ = env.reset()
    assert np.abs(second.astype(float) - first).mean() > 30
    workers = make_vector_env("reacher_easy-distract", 2, seed=0, render="fast")
    try:
        frames, _ = workers.reset()
    finally:
        workers.close()
    assert np.abs(frames[0].astype(float) - frames[1]).mean() > 30


def drawn(task, render, seed=0):
    """Return the bodies' pixels before black and where they are, and the whole frame, in the first frame of a seed."""
    env = make_env(task + DISTRACTING, render=render)
    frame, _ = env.reset(seed=seed)
    bodies, is_drawn = env._camera._render_bodies(64, 64)
    return frame, bodies, is_drawn


@pytest.mark.parametrize("task", ["reacher_easy", "ball_in_cup_catch", "walker_walk"])
def test_the_bodies_are_where_they_were(task):
    frame, bodies, is_drawn = drawn(task, "fast")
    np.testing.assert_array_equal(frame[is_drawn], bodies[is_drawn])
    assert (bodies[~is_drawn] == 0).all()
    # MuJoCo's own segmentation of the clean task: all but sky, and but planes where the camera stands still.
    clean = make_env(task, render="fast")
    clean.reset(seed=0)
    model = clean.physics.model
    segments = clean.physics.render(64, 64, camera_id=0, segmentation=True)
    kept = segments[..., 0] >= 0
    if task not in FOLLOWED:
        planes = np.flatnonzero(model.geom_type == 0)
        kept &= ~(np.isin(segments[..., 0], planes) & (segments[..., 1] == 5))  # mjOBJ_GEOM
    assert kept.sum() > 20
    np.testing.assert_array_equal(is_drawn, kept)


def test_both_profiles_show_the_same_scene():
    fast, standard = (drawn("walker_walk", render)[0].astype(float) for render in ("fast", "standard"))
    is_drawn = drawn("walker_walk", "fast")[2]
    assert np.abs(fast - standard)[~is_drawn].mean() < 3  # background, but for smoothed edges
    assert not np.array_equal(fast, standard)


def test_colors_shift_within_their_bound_and_from_one_episode_to_the_next():
    env = make_env("walker_walk-distract", render="fast")
    clean = make_env("walker_walk", render="fast").physics.model.mat_rgba.copy()
    seen = []
    for _ in range(20):
        env.reset()
        seen.append(env.physics.model.mat_rgba.copy())
        np.testing.assert_array_equal(seen[-1][:, 3], clean[:, 3])
        assert (seen[-1] >= 0).all()
        assert (seen[-1] <= 1).all()
    shifts = np.array(seen)[..., :3] - clean[:, :3]
    assert np.abs(shifts).max() <= COLOR_SHIFT + 1e-6
    assert np.abs(shifts).max() > 0.9 * COLOR_SHIFT  # in no direction does it wander off
    assert not np.array_equal(seen[0], seen[1])


def test_an_episode_begun_in_the_middle_shows_the_same_frames():
    task = "walker_walk-distract"
    env = make_env(task, seed=5, render="fast")
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 6)).astype(np.float32)
    for action in actions:
        frame = env.step(action)[0]
    other = make_env(task, seed=5, render="fast")
    other.begin_at(EpisodeStart(0, actions))
    np.testing.assert_array_equal(other.reset()[0], frame)


def test_the_background_has_the_whole_range_and_any_size():
    waves = Background(np.random.default_rng(0))
    small, large = waves.draw(64, 64, 1.0), waves.draw(256, 256, 1.0)
    assert small.shape == (64, 64, 3)
    assert small.min() >= 0
    assert small.max() <= 255
    assert np.ptp(large) > 250
    np.testing.assert_allclose(large.reshape(64, 4, 64, 4, 3).mean((1, 3)), small, atol=6)  # one pattern, finer
    # An independent evaluation of the formula at one place and time.
    x, y, t, c = (10 + 0.5 - 32) / 64, (50 + 0.5 - 32) / 64, 2.5, 1
    angles = 2 * np.pi * (waves._u * x + waves._v * y + waves._w * t) + waves._phase
    expected = 127.5 * (1 + np.sin(waves._offset[c] + (waves._amplitude[c] * np.cos(angles)).sum()))
    assert waves.draw(64, 64, t)[50, 10, c] == pytest.approx(expected, abs=1e-2)


def test_names_settings_and_scores():
    assert base_task("walker_walk-distract?time_limit=5") == "walker_walk"
    assert is_distracting("walker_walk-distract?time_limit=5")
    assert not is_distracting("walker_walk")
    assert not is_distracting("gym:Thing-distract")  # an id may end like this
    assert base_task("gym:Thing-distract") == "gym:Thing-distract"
    assert set(task_names()) >= {f"{task}{DISTRACTING}" for task in SUITE_TASKS}
    with pytest.raises(ValueError, match="the nearest one is 'walker_walk-distract'"):
        make_env("walkr_walk-distract")
    for task in PLANET:
        clean, distracting = (make_config("cpu", name) for name in (task, task + DISTRACTING))
        assert clean.env == distracting.env
        assert clean.train == distracting.train
    assert nearest_references("walker_walk", 100_000)
    assert not nearest_references("walker_walk-distract", 100_000)
    env = gymnasium.make("dmc_pixels/walker_walk-distract-v0", render="fast")
    assert env.reset(seed=0)[0].shape == (64, 64, 3)
