"""Environments of other packages by their ids, with the wrappers that belong to them; what is missing is skipped."""

from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest

from agent.config.presets import load_preset, make_config, preset_names
from agent.config.settings import Config
from envs import GymPixels, make_env
from envs.pixels import EpisodeStart
from envs.spaces import OneHot
from envs.wrapping import find_wrappers
from tests.envs.pixel_worlds import World

PONG, DOOR, CRAFTER = "gym:ALE/Pong-v5", "gym:MiniGrid-DoorKey-5x5-v0", "gym:CrafterReward-v1"


def needs(*packages):
    missing = [package for package in packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} not installed")


WORLDS = [
    pytest.param(PONG, 6, marks=needs("ale_py", "cv2")),
    pytest.param(DOOR, 7, marks=needs("minigrid")),
    pytest.param(CRAFTER, 17, marks=[needs("crafter"), pytest.mark.slow]),
]


def make(task, **changes):
    """Make a task's environment as a run of the cpu preset makes it."""
    return make_env(task, **make_config("cpu", task).env.options() | changes)


def play(env, steps=12):
    random = np.random.default_rng(0)
    frame, _ = env.reset(seed=3)
    frames, rewards = [frame], []
    actions = np.eye(env.action_space.n, dtype=np.float32)[random.integers(env.action_space.n, size=steps)]
    for action in actions:
        frame, reward, terminated, _, _ = env.step(action)
        frames.append(frame)
        rewards.append(reward)
        assert not terminated
    return np.array(frames), rewards, actions


@pytest.mark.parametrize(("task", "num_actions"), WORLDS)
def test_a_world_is_a_function_of_seed_and_actions(task, num_actions):
    env = make(task)
    assert env.action_space == OneHot(num_actions)
    frames, rewards, actions = play(env)
    assert frames.shape == (13, 64, 64, 3)
    assert frames.std() > 5
    again, gained, _ = play(env)
    np.testing.assert_array_equal(again, frames)
    assert gained == rewards
    other = make(task)
    other.reset(seed=3)
    other.begin_at(EpisodeStart(0, actions))
    np.testing.assert_array_equal(other.reset()[0], frames[-1])  # resumed in the middle
    if task != PONG:  # a game of Pong begins with a still picture
        assert not np.array_equal(env.reset(seed=4)[0], frames[0])
    assert env.render_frame(96).shape == (96, 96, 3)
    env.close()


@needs("ale_py", "cv2")
def test_a_decision_of_atari_is_four_frames_and_shows_the_last_two():
    env = make(PONG, size=64)
    env.reset(seed=0)
    ale = env._env.unwrapped.ale
    begun = ale.getEpisodeFrameNumber()
    assert 1 <= begun <= 30  # no-ops
    for _ in range(5):
        env.step(np.eye(6, dtype=np.float32)[0])
    assert ale.getEpisodeFrameNumber() == begun + 20
    assert env._observed().shape == (210, 160, 3)  # colour
    assert (env._observed() >= ale.getScreenRGB()).all()  # the larger of two frames, pixel by pixel
    assert ale.getFloat("repeat_action_probability") == 0.0
    starts = {ale.getEpisodeFrameNumber() for seed in range(6) if env.reset(seed=seed)}
    assert len(starts) > 1
    plain = make(PONG, wrappers={}, kwargs={})  # ALE's own: sticky actions, no no-ops
    plain.reset(seed=0)
    assert plain._env.unwrapped.ale.getEpisodeFrameNumber() == 0
    assert plain._env.unwrapped.ale.getFloat("repeat_action_probability") == 0.25


@needs("minigrid")
def test_minigrid_shows_what_the_player_sees_unless_told_otherwise():
    part, whole = make(DOOR), make(DOOR, wrappers={})
    frames = [env.reset(seed=0)[0] for env in (part, whole)]
    assert part._env.observation_space["image"].shape == (56, 56, 3)
    assert not np.array_equal(*frames)


@needs("crafter")
def test_crafter_ends_by_death_or_is_truncated():
    env = make(CRAFTER, kwargs={"length": 2})
    env.reset(seed=0)
    ends = [env.step(np.eye(17, dtype=np.float32)[0])[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]
    env.reset()
    env._env.unwrapped._world._player.health = 0
    _, _, terminated, truncated, _ = env.step(np.eye(17, dtype=np.float32)[0])
    assert (terminated, truncated) == (True, False)


# ---------------------------------------------------------------- rows and wrappers


@pytest.mark.parametrize("preset", preset_names())
def test_worlds_bring_their_wrappers_under_every_preset(preset):
    settings = load_preset(preset, PONG)
    assert settings["env"]["wrappers"]["AtariPreprocessing"]["frame_skip"] == 4
    assert settings["env"]["kwargs"]["repeat_action_probability"] == 0
    assert "wrappers" not in load_preset(preset, "gym:CarRacing-v3")["env"]
    assert make_config(preset, PONG, {"env.wrappers": {}}).env.wrappers == {}
    if preset != "debug":
        assert make_config(preset, PONG).env_frames == 100_000
        assert make_config(preset, PONG).env.action_repeat == 1


class Scaled(gymnasium.RewardWrapper):
    """A wrapper of a user's own: it adds `shift` and multiplies by `by`, [factor] as YAML gives it."""

    def __init__(self, env, by=(1.0,), shift=0.0):
        super().__init__(env)
        assert isinstance(by, tuple)
        self.by, self.shift = by, shift

    def reward(self, reward):
        return self.by[0] * (reward + self.shift)


class Broken(gymnasium.Wrapper):
    """A wrapper whose rewards are none."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, None, *rest


HERE = "tests.envs.test_worlds"


@pytest.fixture
def world():
    gymnasium.register("Wrapped-v0", World)
    yield "gym:Wrapped-v0"
    gymnasium.registry.pop("Wrapped-v0")


def test_wrappers_lie_around_the_environment_in_order_and_are_checked_with_it(world):
    def first_reward(wrappers):
        env = make_env(world, wrappers=wrappers)
        env.reset(seed=0)
        return env.step(np.zeros(2, np.float32))[1]

    assert first_reward(None) == 1.0
    assert first_reward({f"{HERE}:Scaled": {"by": [3.0], "shift": 2.0}}) == 9.0
    inner_first = {f"{HERE}:Scaled": {"by": [3.0]}, "ClipReward": {"min_reward": -2.0, "max_reward": 2.0}}
    assert first_reward(inner_first) == 2.0
    assert first_reward(dict(reversed(inner_first.items()))) == 3.0
    with pytest.raises(ValueError, match=r"^step: got a reward of None from gym:Wrapped-v0"):
        make_env(world, wrappers={f"{HERE}:Broken": None})


@pytest.mark.parametrize(
    ("wrappers", "line"),
    [
        ({"AtariPreprocesing": {}}, "the nearest one is 'AtariPreprocessing'"),
        ({"no_such_module:Thing": {}}, r"its module raises ModuleNotFoundError \(No module named 'no_such_module'\)"),
        ({f"{HERE}:HERE": {}}, "expected the name of a class of gymnasium.wrappers, or 'module:Class'"),
        ({"ClipReward": 3}, "got 3 for 'ClipReward', expected its arguments as a mapping"),
        ({"ClipReward": {"min_reward": float("nan")}}, "got dict"),
        ({"ClipReward": {"low": 3}}, r"whose constructor or wrapper \(ClipReward\) raises TypeError"),
    ],
)
def test_wrappers_that_cannot_be_are_one_line(world, wrappers, line):
    with pytest.raises(ValueError, match=rf"^[^\n]*{line}[^\n]*$"):
        make_env(world, wrappers=wrappers)


def test_wrappers_are_for_registered_ids_alone():
    for task in ("cartpole_swingup", "counting"):
        with pytest.raises(ValueError, match=rf"^env.wrappers: got ClipReward for '{task}', expected none"):
            make_env(task, wrappers={"ClipReward": {}})
    with pytest.raises(ValueError, match=r"^wrappers: got ClipReward, expected none"):
        GymPixels(World(), wrappers={"ClipReward": {}})
    assert find_wrappers(None) == []
    assert Config().env.wrappers == {}
