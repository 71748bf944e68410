"""What an environment outside of Gymnasium's API is told, in one line, and what of it is taken all the same."""

import gymnasium
import numpy as np
import pytest

from envs import GymPixels, make_env, make_vector_env
from envs.adapter import _warn_once
from envs.contract import Contract, ContractError
from tests.envs import broken_worlds
from tests.envs.pixel_worlds import World


def task(name):
    return f"gym:tests.envs.broken_worlds:broken_worlds/{name}-v0"


def stepped(name):
    env = make_env(task(name), seed=1)
    env.reset()
    frame, *answer, _ = env.step(np.zeros(2, np.float32))
    env.close()
    return frame, *answer


REFUSED = {
    "RewardList": "step: got a reward of [1.5] from NAME, expected one number: Gymnasium's step(action) -> ",
    "RewardTuple": "step: got a reward of 1 values (float)",
    "RewardNone": "step: got a reward of None",
    "RewardText": "step: got a reward of '1.5'",
    "RewardComplex": "step: got a reward of 1j",
    "RewardTwo": "step: got a reward of float64 array (2,)",
    "RewardEmpty": "step: got a reward of float64 array (0,)",
    "RewardArrayOfText": "step: got a reward of <U3 array (1,)",
    "RewardMapping": "step: got a reward of {'reward': 1.5}",
    "EndNone": "step: got terminated of None from NAME, expected True or False",
    "EndInfo": "step: got truncated of {} from NAME, expected True or False",
    "EndText": "step: got terminated of 'False'",
    "EndTwo": "step: got terminated of 2",
    "ResetAlone": "reset: got a result of uint8 array (16, 16, 3) from NAME, expected a tuple of 2: Gymnasium's reset(",
    "ResetThree": "reset: got a result of 3 values (ndarray, dict, int)",
    "ResetText": "reset: got an info of 'info' from NAME, expected a dict",
    "ResetNoSeed": "reset: got TypeError (<lambda>() got an unexpected keyword argument 'seed') from NAME, expected",
    "ResetRaises": "reset: got OSError (no map) from NAME",
    "StepFour": "step: got a result of 4 values (ndarray, float, bool, dict) from NAME, expected a tuple of 5",
    "StepNone": "step: got a result of None",
    "StepRaises": "step: got KeyError ('gear') from NAME",
    "Floats": "observation: got float32 (16, 16, 3) from NAME, expected uint8 (16, 16, 3) as in its space",
    "Growing": "observation: got uint8 (17, 16, 3) from NAME, expected uint8 (16, 16, 3)",
    "Channels": "observation: got uint8 (16, 16, 4) from NAME, expected uint8 (16, 16, 3)",
    "DrawsFloats": "render: got float64 array (30, 40, 3) from NAME, expected uint8 [H, W, 3] from 0 to 255",
    "DrawsNone": "render: got None from NAME, expected uint8 [H, W, 3]",
    "DrawsFive": "render: got uint8 array (30, 40, 5)",
    "DrawingRaises": "render: got RuntimeError (no paint) from NAME, expected a frame",
    "SpaceRGBA": "observations Box(0, 255, (16, 16, 4), uint8), expected pixels: a uint8 image from 0 to 255",
    "SpaceFloats": "observations Box(0.0, 1.0, (16, 16, 3), float32), expected pixels: a uint8 image from 0 to 255",
    "MakingTypeError": "task: got 'NAME', whose constructor raises TypeError (no such planet",
    "MakingRuntimeError": "task: got 'NAME', whose constructor raises RuntimeError (no licence)",
    "MakingKeyError": "task: got 'NAME', whose constructor raises KeyError ('size')",
    "MakingOSError": "task: got 'NAME', whose constructor raises OSError (port)",
    "MakingAssertionError": "task: got 'NAME', whose constructor raises AssertionError",
    "MakingNoEnv": "must inherit from the gymnasium.Env class",
    "NeedsPlanet": "missing 1 required positional argument: 'planet'",
    "NoSpace": "observation_space: got None from NAME, expected one of gymnasium.spaces",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_the_api_is_one_line_when_it_is_made(name):
    for make in (make_env, make_vector_env):
        with pytest.raises(ValueError, match=r"^[a-z_]+: got [^\n]*$") as caught:
            make(task(name))
        assert REFUSED[name].replace("NAME", task(name)) in str(caught.value)


@pytest.mark.parametrize("name", ["RewardList", "ResetAlone", "StepFour", "MakingRuntimeError"])
def test_workers_tell_the_same_line_and_nothing_else(name, capfd):
    with pytest.raises(ValueError, match=r"^[a-z]+: got [^\n]*$"):
        make_vector_env(task(name), 2)
    assert capfd.readouterr().err == ""


def test_what_raises_in_the_workers_alone_is_told_by_them(capfd):
    gymnasium.register("test_contract/Here-v0", World)  # as under `if __name__ == "__main__":`
    with pytest.raises(ValueError, match=r"^task: got 'gym:test_contract/Here-v0', expected a registered id"):
        make_vector_env("gym:test_contract/Here-v0", 2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["Array", "Array0", "Array2", "Scalar", "Tensor"])
def test_a_reward_of_one_element_is_taken(name):
    reward = stepped(f"Reward{name}")[1]
    assert (type(reward), reward) == (float, 1.5)


def test_what_needs_no_guessing_is_taken():
    assert [stepped(f"Reward{name}")[1] for name in ("Whole", "Flag")] == [3.0, 1.0]
    for name in ("Array", "Numpy", "Number"):
        assert stepped(f"End{name}")[2:] == (True, False)
    for name in ("ResetNoOptions", "ResetNoneInfo"):
        assert stepped(name)[1:] == (1.0, False, False)
    for name in ("DrawsRGBA", "DrawsGrey"):
        assert (stepped(name)[0] == 200).all()


def test_what_cannot_be_drawn_or_closed_is_a_line_and_no_end(caplog):
    _warn_once.cache_clear()
    assert stepped("SeenDrawingRaises")[1] == 1.0
    assert stepped("ClosingRaises")[1] == 1.0
    assert caplog.messages == [
        f"{task('SeenDrawingRaises')}: render() raises RuntimeError (no paint); videos show the observation",
        f"{task('ClosingRaises')}: close() raises RuntimeError (stuck)",
    ]


def test_what_is_tried_out_leaves_no_trace():
    def episodes(env):
        found = []
        for _ in range(2):
            found.append(env.reset()[0])
            for _ in range(5):
                frame, *answer = env.step(np.zeros(2, np.float32))
                found.append((frame.tolist(), answer))
        return str(found)

    assert episodes(GymPixels(World, seed=3)) == episodes(GymPixels(World(render_mode="rgb_array"), seed=3))


def test_an_environment_that_is_given_is_not_stepped_before_its_first_step():
    world = World(render_mode="rgb_array")
    env = GymPixels(world)
    assert world.actions == []
    world.step = lambda action: (world.observe(world.observation_space), [1.0], False, False, {})
    env.reset()
    with pytest.raises(ContractError, match=r"^step: got a reward of \[1.0\] from World, expected one number"):
        env.step(np.zeros(2, np.float32))


def test_later_errors_of_an_environment_come_as_they_are():
    world = World()
    env = Contract(world, "World")
    env.reset()
    env.step(world.action_space.sample())
    world.step = broken_worlds.raising(KeyError("gear"))
    with pytest.raises(KeyError, match="gear"):
        env.step(world.action_space.sample())
