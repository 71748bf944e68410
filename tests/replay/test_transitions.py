"""Rows and transitions: which action and which reward belong to which frame, by hand; files of arrays."""

import numpy as np
import pytest

from replay.npz_format import read_npz
from replay.transitions import Transitions, from_rows, to_rows
from tests.replay.replay_rows import make_episode

FRAMES = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
ACTIONS = np.array([[0.25, -1.0], [0.5, 1.0]])  # a0 between x0 and x1, a1 between x1 and x2
REWARDS = np.array([10.0, 20.0])  # of a0, of a1


def assert_by_hand(episode, is_terminal):
    """Row t: the frame, the reward that came with it, the action that was chosen at it."""
    np.testing.assert_array_equal(episode.image, FRAMES)
    assert episode.reward.tolist() == [0.0, 10.0, 20.0]
    assert episode.action.tolist() == [[0.25, -1.0], [0.5, 1.0], [0.0, 0.0]]
    assert episode.is_first.tolist() == [True, False, False]
    assert episode.is_last.tolist() == [False, False, True]
    assert episode.is_terminal.tolist() == [False, False, is_terminal]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_rows_by_hand_and_back(is_terminal):
    episode = to_rows(Transitions(FRAMES, ACTIONS, REWARDS, is_terminal))
    assert_by_hand(episode, is_terminal)
    back = from_rows(episode)
    assert (back.actions.tolist(), back.rewards.tolist()) == (ACTIONS.tolist(), REWARDS.tolist())
    assert back.is_terminal is is_terminal


@pytest.mark.parametrize("length", [2, 3, 50])
def test_a_round_trip_is_the_same_bit_for_bit(length):
    episode = make_episode(length, is_terminal=True)
    for before, after in zip(episode.fields().values(), to_rows(from_rows(episode)).fields().values(), strict=True):
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"actions": np.zeros((3, 2))}, "actions: got 3 of them and 3 frames, expected one frame more"),
        ({"rewards": np.zeros(1)}, "rewards: got 1 of them and 3 frames"),
        ({"rewards": np.zeros((2, 1))}, r"rewards: got float64 \[2, 1\], expected numbers \[L - 1\]"),
        ({"actions": 2 * ACTIONS}, r"action: got -2.0, expected numbers in \[-1, 1\]"),
        ({"actions": np.full((2, 2), np.nan)}, "action: got nan"),
        ({"rewards": np.array([0.0, np.inf])}, "reward: got inf, expected finite numbers"),
        ({"frames": FRAMES / 255}, r"frames: got float64 \[3, 4, 4, 3\], expected uint8"),
        ({"frames": FRAMES[..., :1]}, r"frames: got uint8 \[3, 4, 4, 1\], expected uint8 \[L, H, W, 3\]"),
        ({"frames": FRAMES[:1], "actions": ACTIONS[:0], "rewards": REWARDS[:0]}, "frames: got 1, expected at least 2"),
    ],
)
def test_anything_else_is_one_line(changes, line):
    given = Transitions(FRAMES, ACTIONS, REWARDS, False)._replace(**changes)
    with pytest.raises(ValueError, match=line):
        to_rows(given)


def test_a_single_row_has_no_transitions():
    with pytest.raises(ValueError, match="got a single row, expected at least 2"):
        from_rows(make_episode(1))


LED_HERE = {"action": np.concatenate([np.zeros((1, 2)), ACTIONS]), "reward": np.array([0.0, 10.0, 20.0])}


@pytest.mark.parametrize(
    ("arrays", "is_terminal"),
    [
        ({"observation/pixels": FRAMES, "action": ACTIONS, "reward": REWARDS}, False),
        ({"pixels": np.moveaxis(FRAMES, -1, 1), "actions": ACTIONS, "rewards": REWARDS, "discount": [1, 0.0]}, True),
        ({"image": FRAMES, **LED_HERE, "is_first": [1, 0, 0], "is_terminal": [0, 0, 1]}, True),
        ({"observation": FRAMES, **LED_HERE, "discount": np.ones(3), "state": np.zeros((3, 9))}, False),
    ],
    ids=["transitions", "channels first", "Dreamer", "other keys"],
)
def test_files_of_arrays_by_hand(tmp_path, arrays, is_terminal):
    np.savez(tmp_path / "episode.npz", **arrays)
    assert_by_hand(read_npz(tmp_path / "episode.npz"), is_terminal)


CHOSEN = {"action": np.concatenate([ACTIONS, np.zeros((1, 2))]), "reward": np.array([10.0, 20.0, 0.0])}


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"image": FRAMES, **CHOSEN}, "got other values than zeros at the first of 3 frames"),
        ({"image": FRAMES, "action": ACTIONS}, "keys: got action, image, expected one of reward, rewards"),
        ({"image": FRAMES, **LED_HERE, "is_first": [1, 0, 1]}, "is_first: got a second beginning"),
        ({"image": FRAMES, "action": 0.5, "reward": REWARDS}, "action: got no rows"),
        ({"image": np.array([None] * 3), "action": ACTIONS, "reward": REWARDS}, "Object arrays"),
    ],
)
def test_other_files_are_one_line_that_names_the_file(tmp_path, arrays, line):
    path = tmp_path / "episode.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=line) as caught:
        read_npz(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "episode.npz"
    np.savez_compressed(path, image=FRAMES, **LED_HERE)
    whole = path.read_bytes()
    for content in (b"", b"PK", whole[:-40], whole[:200] + b"\xff" * 40 + whole[240:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^.*episode\.npz: \S") as caught:
            read_npz(path)
        assert "\n" not in str(caught.value)
