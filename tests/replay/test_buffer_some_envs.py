"""ReplayBuffer.add with the rows of some environments only."""

import numpy as np
import pytest

from envs import Step
from replay import ReplayBuffer


def row(*values, first=False, last=False):
    """Rows of as many environments, whose frames and rewards are `values`."""
    count = len(values)
    image = np.zeros((count, 2, 2, 3), np.uint8) + np.array(values, np.uint8)[:, None, None, None]
    flags = (np.full(count, flag) for flag in (first, last, False))
    reward = np.zeros(count, np.float32) if first else np.array(values, np.float32)
    return Step(image, reward, *flags, np.zeros((count, 1), np.float32))


@pytest.fixture
def buffer():
    return ReplayBuffer(20, action_dim=1, num_envs=3, image_shape=(2, 2, 3))


def test_rows_go_to_the_environments_that_are_named(buffer):
    buffer.add(row(10, 20, 30, first=True))
    buffer.add(row(31, 11, last=True), envs=[2, 0])
    buffer.add(row(40, 50, first=True), envs=np.array([0, 2]))
    buffer.add(row(41, 21, 51, last=True))
    whole = buffer.sample(1, len(buffer))
    assert whole.image[0, :, 0, 0, 0].tolist() == [30, 31, 10, 11, 40, 41, 20, 21, 50, 51]
    assert whole.is_last[0].tolist() == [False, True] * 5


@pytest.mark.parametrize("envs", [[0, 0], [3], [-1, 0]])
def test_numbers_that_name_no_environment_or_one_twice(buffer, envs):
    with pytest.raises(ValueError, match=r"^envs: got .*, expected distinct numbers from 0 to 2$"):
        buffer.add(row(*range(len(envs)), first=True), envs)


def test_as_many_rows_as_environments(buffer):
    with pytest.raises(ValueError, match=r"^step\.image: got uint8 \[2, 2, 2, 3\], expected uint8 \[1, 2, 2, 3\]$"):
        buffer.add(row(1, 2, first=True), [0])
    assert buffer.num_staged == 0


def test_every_environment_keeps_its_own_order(buffer):
    buffer.add(row(1, first=True), [1])
    with pytest.raises(ValueError, match=r"^step\.is_first\[0\]: got True, expected False inside an episode$"):
        buffer.add(row(1, first=True), [1])
    buffer.add(row(1, 2, first=True), [0, 2])
