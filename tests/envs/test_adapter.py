"""GymPixels: what is seen of a gymnasium environment, how it is acted on, and what is refused."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from envs import Driver, GymPixels, make_env, make_vector_env
from envs.adapter import _warn_once
from envs.images import resize_area
from envs.spaces import OneHot
from tests.envs import pixel_worlds
from tests.envs.pixel_worlds import VECTOR, World, image_space

SEEN, DRAWN = "gym:tests.envs.pixel_worlds:pixel_worlds/Seen-v0", "gym:tests.envs.pixel_worlds:pixel_worlds/Drawn-v0"


def adapted(space=None, actions=None, render_mode="rgb_array", **settings):
    """A GymPixels around a World, and that World."""
    world = World(space, actions, render_mode=render_mode)
    return GymPixels(world, **settings), world


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize(
    "shape", [(40, 50, 3), (3, 40, 50), (40, 50), (40, 50, 1), (1, 40, 50), (200, 200, 3), (64, 64, 3), (8, 9)]
)
def test_images_of_any_layout_and_size_become_frames(shape):
    env, world = adapted(image_space(*shape), render_mode=None)
    frame, _ = env.reset(seed=3)
    assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
    assert (frame == world.base).all()
    frame, *_ = env.step(np.zeros(2, np.float32))
    assert (frame == 10 + world.base).all()
    assert env.render_frame(100, 120).shape == (100, 120, 3)


@pytest.mark.parametrize("layout", ["HWC", "CHW", "HW", "HW1"])
def test_pixels_stay_in_place_whatever_the_layout(layout):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = {"HWC": picture, "CHW": picture.transpose(2, 0, 1), "HW": picture[..., 0], "HW1": picture[..., :1]}[layout]

    class Still(World):
        def observe(self, space):
            return image

    expected = picture if "C" in layout else picture[..., :1].repeat(3, -1)
    np.testing.assert_array_equal(GymPixels(Still(image_space(*image.shape))).reset()[0], expected)


def test_a_pixel_is_the_mean_of_the_area_that_it_covers():
    image = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    means = image.reshape(64, 2, 64, 3, 3).mean((1, 3))
    assert np.abs(resize_area(image, 64, 64) - means).max() <= 1  # rounded once or twice


def test_a_dict_shows_its_image_and_says_once_what_is_not_seen(caplog):
    _warn_once.cache_clear()
    space = Dict(camera=image_space(16, 16, 3), pose=VECTOR, goal=Discrete(3))
    for _ in range(2):
        env, world = adapted(space)
    seen, _ = env.reset()
    assert (seen["image"] == world.base).all()
    assert caplog.messages == ["World: the agent sees 'camera', 'pose', but not goal"]


@pytest.mark.parametrize(("key", "shape"), [("left", (16, 16, 3)), ("right", (8, 9))])
def test_of_several_images_one_is_named(key, shape):
    for env in (
        make_env(f"gym:tests.envs.pixel_worlds:pixel_worlds/TwoEyes-v0#{key}"),
        make_env("gym:tests.envs.pixel_worlds:pixel_worlds/TwoEyes-v0", observation_key=key),
    ):
        env.reset()
        assert env._env.observation_space[env._key].shape == shape


@pytest.mark.parametrize(
    "space",
    [
        VECTOR,
        Discrete(5),
        Dict(pose=VECTOR),
        Box(0, 255, (128,), np.uint8),  # memory
        Box(0, 255, (7, 7, 3), np.uint8),  # a grid of codes
        Box(0, 9, (20, 20), np.uint8),  # a board
        Box(0, 1, (16, 16, 3), np.float32),
        Box(0, 255, (4, 16, 16), np.uint8),  # a stack of frames
    ],
    ids=str,
)
def test_without_an_image_it_is_drawn(space):
    env, _ = adapted(space)
    assert (env.reset()[0] == 200).all()
    assert (env.step(np.zeros(2, np.float32))[0] == 201).all()
    assert env.render_frame(50).shape == (50, 50, 3)


def test_people_see_what_render_draws():
    env, world = adapted()
    frame, _ = env.reset()
    assert (frame == world.base).all()
    assert (env.render_frame(50, 70) == 200).all()
    np.testing.assert_array_equal(env.render(), frame)


def test_an_image_that_is_not_as_its_space_says_is_named():
    env, world = adapted(image_space(16, 16, 3))
    env.reset()
    world.observe = lambda space: np.zeros((16, 15, 3), np.uint8)
    with pytest.raises(ValueError, match=r"^observation: got uint8 \(16, 15, 3\) from World, expected [^\n]*$"):
        env.step(np.zeros(2, np.float32))


# ---------------------------------------------------------------- actions, ends, seeds


def test_actions_arrive_in_the_environments_own_space():
    env, world = adapted(actions=Box(0, 4, (1, 2), np.float32))
    assert env.action_space == Box(-1, 1, (2,), np.float32)
    env.reset()
    env.step(np.array([-1, 0.5], np.float32))
    np.testing.assert_array_equal(world.actions, [[[0, 3]]])
    env, world = adapted(actions=Discrete(3, start=5))
    assert env.action_space == OneHot(3)
    env.reset()
    for vector in np.eye(3, dtype=np.float32):
        env.step(vector)
    assert world.actions == [5, 6, 7]


@pytest.mark.parametrize("terminates", [True, False])
@pytest.mark.parametrize(("repeat", "rewards"), [(1, [1, 2, 3, 4, 5]), (2, [3, 7, 5]), (3, [6, 9])])
def test_repeats_sum_rewards_and_stop_at_an_episodes_end(terminates, repeat, rewards):
    env = GymPixels(World(terminates=terminates), action_repeat=repeat)
    for _ in range(2):
        env.reset()
        steps = [env.step(np.zeros(2, np.float32))[1:4] for _ in rewards]
        assert [step[0] for step in steps] == rewards
        assert all(step[1:] == (False, False) for step in steps[:-1])
        assert steps[-1][1:] == (terminates, not terminates)
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(np.zeros(2, np.float32))


def test_seeds_decide_every_episode_and_reach_the_environment():
    def bases(env, world, episodes=30):
        found = []
        for _ in range(episodes):
            env.reset()
            found.append(world.base)
        return found

    first, same, other = (bases(*adapted(seed=seed)) for seed in (4, 4, 5))
    assert first == same
    assert first != other
    assert len(set(first)) > 5  # episodes differ
    _, world = pair = adapted(seed=4)
    bases(*pair)
    assert all(0 <= seed < 2**31 for seed in world.seeds)
    assert len(set(world.seeds)) == 31  # the trial of render() is the first


def test_frames_a_second_are_the_environments_own():
    assert adapted(action_repeat=3)[0].metadata["render_fps"] == pytest.approx(4)

    assert make_env("gym:pixel_worlds/Silent-v0").metadata["render_fps"] == 30


def test_close_reaches_the_environment():
    env, world = adapted()
    closed = []
    world.close = lambda: closed.append(True)
    env.reset()
    env.close()
    assert closed
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(2, np.float32))


# ---------------------------------------------------------------- ids, checkers, workers


@pytest.mark.filterwarnings("ignore:.*Not able to test alternative render modes")  # it has no id of its own
@pytest.mark.filterwarnings("ignore:We recommend you to use a symmetric")  # one-hot vectors are in [0, 1]
@pytest.mark.parametrize("task", [SEEN, DRAWN])
def test_passes_gymnasiums_and_sb3s_check_env(task):
    env = make_env(task, seed=1)
    check_env(env)
    sb3_check_env(env)


def test_what_makes_an_environment_will_do():
    assert GymPixels(World).task == "World"
    assert GymPixels(lambda: gymnasium.make("pixel_worlds/Seen-v0")).task == "gym:pixel_worlds/Seen-v0"
    assert make_env(SEEN).task == SEEN
    assert make_env(SEEN).action_repeat == 1


def test_rows_of_discrete_environments_in_workers_hold_one_hot_vectors():
    vector_env = make_vector_env(DRAWN, 2, seed=0)  # each worker imports the module itself
    random = np.random.default_rng(0)
    with Driver(vector_env) as driver:
        assert (driver.action_dim, driver.is_discrete) == (3, True)
        sent = [random.uniform(-1, 1, (2, 3)) for _ in range(12)]
        rows = [driver.tick(lambda step, action=action: action) for action in sent]
    for action, row in zip(sent, rows, strict=True):
        for i in range(2):
            if row.is_last[i]:
                assert (row.action[i] == 0).all()
            else:
                assert OneHot(3).contains(row.action[i])
                assert row.action[i].argmax() == action[i].argmax()
    assert [bool(row.is_last.all()) for row in rows] == [i % 6 == 5 for i in range(12)]


def test_mujoco_environments_of_gymnasium_are_drawn(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log here
    env = make_env("gym:HalfCheetah-v5", seed=0)
    first, _ = env.reset()
    assert first.std() > 10
    for _ in range(5):
        frame, *_ = env.step(env.action_space.sample())
    assert (frame != first).any()
    assert env.metadata["render_fps"] == 20
    env.close()


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("gym:CarRacin-v3", "the nearest one is 'gym:CarRacing-v3'"),
        ("gym:CartPole", "the nearest one is 'gym:CartPole-v1'"),
        ("gym:", "expected a registered id"),
        ("gym:a b", "expected a registered id"),
        ("gym:Nowhere/Pong-v5", "Namespace Nowhere not found"),
        ("gym:tests.envs.pixel_worlds:pixel_worlds/Sen-v0", f"the nearest one is '{SEEN}'"),
        ("gym:no_such_module:X-v0", "No module named 'no_such_module'"),
        ("gym:pixel_worlds/Blind-v0", "render_mode None and observations Box"),
        ("gym:pixel_worlds/Lacking-v0", "pygame is not installed, run `pip install pygame`"),
        ("gym:pixel_worlds/Seen-v0#left", "observation key: got 'left'"),
        (
            "gym:pixel_worlds/TwoEyes-v0",
            "its images (left, right), as in 'gym:pixel_worlds/TwoEyes-v0#left'",
        ),
        ("gym:pixel_worlds/TwoEyes-v0#pose", "observation key: got 'pose'"),
        ("gym:pixel_worlds/Multi-v0", "actions: got MultiDiscrete([3 2])"),
        ("gymCarRacing-v3", "expected a known task or 'gym:<id>'"),
    ],
)
@pytest.mark.parametrize("make", [make_env, make_vector_env])
def test_bad_tasks_are_one_line(make, task, expected):
    assert pixel_worlds
    with pytest.raises(ValueError, match=r"^[a-z ]+: got [^\n]*$") as caught:
        make(task)
    assert expected in str(caught.value)


def test_drawing_that_lacks_a_package_costs_only_the_larger_view():
    env = make_env("gym:pixel_worlds/SeenLacking-v0")
    frame, _ = env.reset()
    np.testing.assert_array_equal(env.render_frame(64), frame)


@pytest.mark.parametrize("source", [3, None, object(), partial(dict)])
def test_what_is_no_environment_is_refused(source):
    with pytest.raises(ValueError, match=r"^env: got [^\n]*, expected a gymnasium.Env[^\n]*$"):
        GymPixels(source)


def test_a_refused_environment_is_closed_where_it_was_made_here():
    closed = []

    class Watched(World):
        def close(self):
            closed.append(True)

    for source, count in ((lambda: Watched(VECTOR), 1), (Watched(VECTOR), 0)):
        closed.clear()
        with pytest.raises(ValueError, match="expected pixels"):
            GymPixels(source)
        assert len(closed) == count
