"""Vectors beside frames: what each kind of environment gives, and what is refused in one line."""

import logging
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.utils.env_checker import check_env

import envs
from envs import Driver, GymPixels, make_env, make_vector_env
from envs.counting import CountingEnv, decode_frame
from envs.pixels import EpisodeStart
from envs.reaching import ReachingEnv
from tests.envs.pixel_worlds import VECTOR, World, image_space

SPACE = Dict(
    camera=image_space(16, 16, 3),
    speed=Box(-np.inf, np.inf, (), np.float64),
    arm=VECTOR,
    wheels=Box(0, 9, (2,), np.int64),
)


class Robot(World):
    """Its vector is [1, 2, 3, 4], its speed the step, its wheels [7, 8]; `spoil` changes an entry."""

    def __init__(self, space=SPACE, spoil=None, at=0, **settings):
        super().__init__(space, **settings)
        self.spoil, self.at = spoil or {}, at

    def observe(self, space):
        parts = {
            "camera": super().observe(SPACE["camera"]),
            "speed": np.float64(self.count),
            "wheels": np.array([7, 8]),
        }
        parts["arm"] = np.arange(1, 5, dtype=np.float32)
        if self.count >= self.at:
            parts |= self.spoil
        return {name: parts[name] for name in space if name in parts}


def seen(env, steps=3):
    observations = [env.reset(seed=3)[0]]
    return observations + [env.step(np.full(env.action_space.shape, 0.3, np.float32))[0] for _ in range(steps)]


def test_the_suites_own_observations_come_in_their_order_beside_the_same_frames():
    env, plain = (make_env("walker_walk", render="fast", vector=vector) for vector in (True, None))
    assert plain.observation_space == Box(0, 255, (64, 64, 3), np.uint8)
    for found, frame in zip(seen(env), seen(plain), strict=True):
        assert env.observation_space.contains(found)
        np.testing.assert_array_equal(found["image"], frame)
    physics = env.physics
    parts = [physics.orientations(), [physics.torso_height()], physics.velocity()]
    np.testing.assert_array_equal(found["vector"], np.concatenate(parts).astype(np.float32))
    registered = gymnasium.make("dmc_pixels/walker_walk-v0", vector=True, render="fast").unwrapped
    np.testing.assert_array_equal(seen(registered)[-1]["vector"], found["vector"])
    for one in (env, plain, registered):
        one.close()


@pytest.mark.filterwarnings("ignore:.*infinity")
@pytest.mark.parametrize(
    "env",
    [
        CountingEnv(vector=True),
        ReachingEnv(vector=True, axes=2),
        ReachingEnv(size=0, vector=True),
        GymPixels(Robot),
        GymPixels(Robot, size=0, vector=True),
    ],
    ids=str,
)
def test_gymnasium_takes_them_for_environments(env):
    check_env(env, skip_render_check=True)


def test_a_dicts_vectors_are_joined_in_the_order_of_their_names():
    for settings in ({}, {"vector": True}):
        env = GymPixels(Robot, **settings)
        np.testing.assert_array_equal(seen(env)[2]["vector"], np.array([1, 2, 3, 4, 2, 7, 8], np.float32))
        assert env.made_with["vector"] == settings.get("vector")
    plain = GymPixels(Robot, vector=False)
    np.testing.assert_array_equal(seen(plain)[2], seen(env)[2]["image"])


def test_vectors_beside_what_render_draws_are_for_those_who_ask():
    for space in (VECTOR, Dict(pose=VECTOR)):
        assert GymPixels(lambda space=space: World(space, render_mode="rgb_array")).vector_dim is None
        env = GymPixels(lambda space=space: World(space, render_mode="rgb_array"), vector=True)
        found = seen(env)[0]
        assert (found["image"] == 200).all()
        assert found["vector"].shape == (4,)


@pytest.mark.parametrize("space", [image_space(16, 16, 3), Dict(eye=image_space(16, 16, 3), goal=Discrete(3))], ids=str)
def test_a_vector_that_is_not_there(space):
    with pytest.raises(
        ValueError, match=r"^env.vector: got true for 'World', expected false: its observations are .*$"
    ):
        GymPixels(lambda: World(space), vector=True)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        ({"arm": np.array([1, np.nan, 3, 4])}, "vector: got nan at index 1 from Robot, expected finite numbers"),
        ({"arm": np.array([1, 2, 3, 1e300])}, "vector: got inf at index 3 from Robot, expected finite numbers"),
        (
            {"arm": np.ones(5)},
            r"observation: got float64 \(5,\) for 'arm' from Robot, expected numbers \(4,\) as in its space",
        ),
        ({"speed": "fast"}, r"observation: got <U4 \(\) for 'speed' from Robot, expected numbers \(\) as in its space"),
    ],
)
def test_a_bad_vector_is_one_line_and_costs_an_episode(spoil: dict[str, Any], line, caplog):
    env = GymPixels(lambda: Robot(spoil=spoil, at=2))
    env.reset()
    env.step(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=f"^{line}$"):
        env.step(np.zeros(2, np.float32))


def test_a_driver_restarts_an_environment_with_a_bad_vector(caplog):
    spoils = [{"arm": np.full(4, np.nan)}]

    def make(starts=None):
        made = GymPixels(Robot(spoil=spoils.pop() if spoils else None, at=2))
        if starts is not None:
            made.begin_at(starts[0])
        return gymnasium.vector.SyncVectorEnv([lambda: made], autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP)

    with caplog.at_level(logging.WARNING), Driver(make(), remake=make) as driver:
        rows = [driver.tick(lambda step: np.zeros((1, 2))) for _ in range(5)]
    assert "vector: got nan at index 0 from Robot, expected finite numbers" in caplog.text
    assert [row.vector[0, 4] for row in rows] == [0, 1, 0, 1, 2]  # the speed
    assert [bool(row.is_first[0]) for row in rows] == [True, False, True, False, False]


def test_rows_of_worker_processes_have_their_own_vectors():
    with Driver(make_vector_env("counting", 2, size=8, vector=True, kwargs={"length": 3})) as driver:
        rows = [driver.tick(lambda step: np.zeros((2, 2))) for _ in range(6)]
    assert driver.vector_dim == 3
    for row in rows:
        assert row.vector.dtype == np.float32
        np.testing.assert_array_equal(row.vector, np.stack(decode_frame(row.image), 1))
    assert [int(row.vector[1, 2]) for row in rows] == [0, 1, 2, 3, 0, 1]


def test_an_environment_that_begins_elsewhere_measures_the_same():
    env, actions = ReachingEnv(vector=True), np.linspace(-1, 1, 4, dtype=np.float32)[:, None]
    env.reset(seed=1)
    for action in actions:
        last, *_ = env.step(action)
    again = ReachingEnv(seed=1, vector=True)
    again.begin_at(EpisodeStart(0, actions))
    np.testing.assert_array_equal(again.reset()[0]["vector"], last["vector"])
    again.begin_at(EpisodeStart(1, None))
    empty, _ = again.reset()
    assert again.observation_space.contains(empty)
    assert not empty["vector"].any()


@pytest.mark.parametrize("source", ["walker_walk", "reaching", "counting", Robot])
def test_vectors_alone_are_those_beside_frames(source, monkeypatch):
    """Nothing is drawn for them, so that GL need not work."""
    make = make_env if isinstance(source, str) else GymPixels
    beside = make(source, vector=True)
    with monkeypatch.context() as patch:
        patch.setattr("envs.rendering._context_failure", lambda _: "no GL")
        env = make(source, size=0, vector=True)
    for found, expected in zip(seen(env), seen(beside), strict=True):
        assert env.observation_space.contains(found)
        np.testing.assert_array_equal(found, expected["vector"])
    assert (env.made_with["size"], env.render().shape) == (0, (64, 64, 3))
    np.testing.assert_array_equal(env.render_frame(48), beside.render_frame(48))
    env.begin_at(EpisodeStart(1, None))
    np.testing.assert_array_equal(env.reset()[0], np.zeros_like(found))
    for one in (env, beside):
        one.close()


def test_an_environment_that_cannot_draw_has_its_vector(caplog):
    for name in ("Blind-v0", "Lacking-v0"):
        task = f"gym:tests.envs.pixel_worlds:pixel_worlds/{name}"
        with pytest.raises(ValueError, match=r"^task: got "):
            make_env(task)
        with Driver(make_vector_env(task, size=0)) as driver:
            row = driver.tick(lambda step: np.zeros((1, 2)))
        assert (row.image.shape, row.vector.shape, driver.vector_dim) == ((1, 0, 0, 3), (1, 4), 4)
    assert "there are no videos" in caplog.text


@pytest.mark.parametrize(
    ("task", "settings", "line"),
    [
        (
            "reaching",
            {"vector": False},
            "size: got 0 for 'reaching' without a vector, expected frames, vectors .* or both",
        ),
        ("walker_walk", {"vector": False}, "size: got 0 for 'walker_walk' without a vector, expected frames, vectors"),
        (
            "gym:tests.envs.pixel_worlds:pixel_worlds/Seen-v0",
            {},
            "env.size: got 0 for .*, expected frames: its observations",
        ),
        ("reaching", {"size": -1}, "size: got -1, expected"),
    ],
)
def test_neither_frames_nor_vectors_is_one_line(task, settings, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        make_env(task, **{"size": 0, **settings})


def test_frames_alone_are_what_they_were():
    for task in ("counting", "reaching"):
        assert envs.make_env(task).observation_space == Box(0, 255, (64, 64, 3), np.uint8)
        assert make_env(task, vector=False).reset()[0].shape == (64, 64, 3)
