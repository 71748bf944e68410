"""One-hot vectors as a space, and the way from the agent's actions to an environment's own."""

import pickle
from collections import Counter

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from envs.spaces import OneHot, action_map, random_actions


def test_one_hot_samples_are_members_and_each_comes_as_often():
    space = OneHot(4, seed=0)
    samples = [space.sample() for _ in range(4000)]
    assert all(space.contains(sample) for sample in samples)
    counts = Counter(int(sample.argmax()) for sample in samples)
    assert all(abs(counts[i] - 1000) < 5 * np.sqrt(1000 * 0.75) for i in range(4))


@pytest.mark.parametrize(
    "vector",
    [[0, 0, 0], [1, 1, 0], [0.5, 0.5, 0], [0, 0.9, 0], [2, 0, 0], [1, -1, 0], [1, 0], [[1, 0, 0]], [np.nan, 0, 1]],
)
def test_one_hot_contains_nothing_else(vector):
    assert not OneHot(3).contains(np.array(vector, np.float32))


def test_one_hot_is_equal_by_n_and_survives_pickling_with_its_randomness():
    space = OneHot(5, seed=3)
    space.sample()
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space == OneHot(5)
    assert space not in (OneHot(4), Box(0, 1, (5,), np.float32))
    np.testing.assert_array_equal([copy.sample() for _ in range(20)], [space.sample() for _ in range(20)])
    assert repr(space) == "OneHot(5)"


@pytest.mark.parametrize("n", [0, -1, 2.5, "3"])
def test_one_hot_needs_a_count(n):
    with pytest.raises(ValueError, match=r"^n: got [^\n]*expected [^\n]*$"):
        OneHot(n)


def test_chance_is_uniform_in_either_space():
    random = np.random.default_rng(0)
    vectors = random_actions(3000, 2, False, random)
    assert (vectors.dtype, vectors.shape) == (np.float32, (3000, 2))
    assert np.abs(vectors).max() <= 1
    np.testing.assert_allclose(vectors.mean(0), 0, atol=5 * np.sqrt(1 / 3 / 3000))
    choices = random_actions(3000, 3, True, random)
    assert all(OneHot(3).contains(choice) for choice in choices)
    np.testing.assert_allclose(choices.mean(0), 1 / 3, atol=5 * np.sqrt(2 / 9 / 3000))


def test_vectors_are_scaled_to_the_bounds_of_a_box():
    box = Box(np.array([[-2, 0], [5, -np.inf]], np.float32), np.array([[2, 10], [6, np.inf]], np.float32))
    to_env = action_map(box)
    assert to_env.space == Box(-1, 1, (4,), np.float32)
    for action, expected in (
        ([-1, -1, -1, -1], [[-2, 0], [5, -1]]),
        ([1, 1, 1, 1], [[2, 10], [6, 1]]),  # without bounds: as they are
        ([0, 0.5, -0.5, 0.25], [[0, 7.5], [5.25, 0.25]]),
    ):
        found = to_env(np.array(action, np.float32))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert box.contains(found)
    assert to_env(np.zeros((7, 4), np.float32)).shape == (7, 2, 2)


def test_a_bound_on_one_side_is_kept_and_huge_bounds_count_as_none():
    to_env = action_map(Box(np.array([0, -3.4e38], np.float32), np.array([np.inf, 3.4e38], np.float32)))
    np.testing.assert_array_equal(to_env(np.array([-1, -0.5], np.float32)), np.array([0, -0.5], np.float32))


def test_integers_are_the_nearest():
    to_env = action_map(Box(0, 10, (3,), np.int64))
    found = to_env(np.array([-1, 0.16, 1], np.float32))
    assert found.dtype == np.int64
    assert found.tolist() == [0, 6, 10]


@pytest.mark.parametrize("bound", [0.1, 1 / 3, 7.77, 123.456])
def test_rounding_never_leaves_the_box(bound):
    box = Box(np.float32(-bound), np.float32(bound), (1,), np.float32)
    to_env = action_map(box)
    assert all(box.contains(to_env(np.array([a], np.float32))) for a in np.linspace(-1, 1, 101))


def test_choices_start_where_the_space_does():
    space = Discrete(3, start=-1)
    to_env = action_map(space)
    assert to_env.space == OneHot(3)
    choices = to_env(np.eye(3, dtype=np.float32))
    assert choices.tolist() == [-1, 0, 1]
    assert all(space.contains(to_env(vector)) for vector in np.eye(3, dtype=np.float32))


@pytest.mark.parametrize(
    "space",
    [MultiDiscrete([3, 2]), MultiBinary(3), Tuple([Discrete(2)]), Dict(a=Discrete(2)), Box(0, 1, (0,), np.float32)],
)
def test_other_spaces_are_refused_in_one_line(space):
    with pytest.raises(ValueError, match=r"^actions: got [^\n]*, expected a Box of numbers or a Discrete$"):
        action_map(space)
