"""Minari: what its own reader finds in what we write, and the same rows back; datasets of other programs."""

import json
import warnings

import numpy as np
import pytest

pytest.importorskip("minari", reason="needs the extra `data`")
pytest.importorskip("h5py", reason="needs the extra `data`")

import minari
from gymnasium.spaces import Box, Discrete
from minari.data_collector import EpisodeBuffer

from replay.minari_format import MinariDataset, check_new, place_of, write_minari
from tests.replay.replay_rows import ACTION_DIM, IMAGE_SHAPE, make_episode

SPACES = (Box(0, 255, IMAGE_SHAPE, np.uint8), ACTION_DIM, False)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def test_a_round_trip_is_the_same_bit_for_bit_and_minari_reads_it_as_its_own():
    episodes = [make_episode(5, episode=0), make_episode(40, episode=1, is_terminal=True)]
    assert write_minari("toy/mixed-v0", iter(episodes), *SPACES, {"policy": "random"}) == 2
    read = MinariDataset("toy/mixed-v0")
    assert (read.about, read.is_discrete) == ({"policy": "random"}, False)
    for before, (_, after) in zip(episodes, read.episodes(), strict=True):
        for x, y in zip(before.fields().values(), after.fields().values(), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    theirs = minari.load_dataset("toy/mixed-v0")[1]
    assert (len(theirs.observations), len(theirs.actions), len(theirs.rewards)) == (40, 39, 39)
    assert theirs.rewards.tolist() == list(range(1, 40))  # make_episode: reward[t] = t, the first is no transition's
    np.testing.assert_array_equal(theirs.actions, episodes[1].action[:-1])
    assert theirs.terminations.tolist() == [False] * 38 + [True]
    assert not theirs.truncations.any()
    assert minari.load_dataset("toy/mixed-v0")[0].truncations.tolist() == [False] * 3 + [True]


def test_choices_are_numbers_there_and_one_hot_vectors_here():
    episode = make_episode(4)
    episode.action[:3] = np.eye(2, dtype=np.float32)[[1, 0, 1]]
    write_minari("choice-v0", [episode], SPACES[0], 2, True, {})
    assert minari.load_dataset("choice-v0")[0].actions.tolist() == [1, 0, 1]
    read = MinariDataset("choice-v0")
    assert read.is_discrete
    np.testing.assert_array_equal(next(read.episodes())[1].action, episode.action)


def test_numbers_of_choices_that_start_elsewhere():
    foreign("theirs-v1", space=Discrete(3, start=5), actions=np.array([5, 7, 6]))
    ((_, episode),) = MinariDataset("theirs-v1").episodes()
    assert episode.action.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_frames_of_64_pixels_are_not_changed_by_jpeg():
    episode = make_episode(3)
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    write_minari("noise-v0", [episode._replace(image=noise)], Box(0, 255, (64, 64, 3), np.uint8), ACTION_DIM, False, {})
    np.testing.assert_array_equal(next(MinariDataset("noise-v0").episodes())[1].image, noise)


PIXELS, CONTINUOUS = Box(0, 255, IMAGE_SHAPE, np.uint8), Box(-1, 1, (2,))


def foreign(name, pixels=PIXELS, space=CONTINUOUS, **changes):
    """Write a dataset as another program would: one episode of three steps."""
    values = {"observations": np.zeros((4, *pixels.shape), pixels.dtype), "actions": np.zeros((3, *space.shape))}
    values |= {"rewards": np.ones(3), "terminations": np.zeros(3, bool), "truncations": np.arange(3) == 2} | changes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to name an author
        minari.create_dataset_from_buffers(
            name, [EpisodeBuffer(**values)], observation_space=pixels, action_space=space, jpeg_encoding=False
        )


def test_a_foreign_dataset_is_read_and_an_open_end_is_a_time_limit():
    foreign("theirs-v1", truncations=np.zeros(3, bool))
    (label, episode), *_ = MinariDataset("theirs-v1").episodes()
    assert label == "minari:theirs-v1, episode 0"
    assert episode.reward.tolist() == [0, 1, 1, 1]
    assert episode.is_last.tolist() == [False, False, False, True]
    assert not episode.is_terminal.any()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"pixels": Box(-1, 1, (7, 7))}, "observations: got Box.*expected frames uint8"),
        ({"space": Box(-2, 2, (2,))}, r"actions: got Box\(-2.0, 2.0.*expected \[A\] from -1 to 1"),
        ({"space": Box(-1, 1, (1, 2))}, "actions: got Box"),
    ],
)
def test_other_spaces_are_one_line(changes, line):
    foreign("theirs-v1", **changes)
    with pytest.raises(ValueError, match=rf"^minari:theirs-v1: {line}"):
        MinariDataset("theirs-v1")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"terminations": np.arange(3) == 0}, "got an end before the last step"),
        ({"actions": np.zeros((4, 2), np.float32)}, "actions: got 4 of them and 4 frames, expected one frame more"),
        ({"actions": np.full((3, 2), 1.5, np.float32)}, "action: got 1.5"),
    ],
)
def test_other_episodes_are_one_line(changes, line):
    foreign("theirs-v1", **changes)
    with pytest.raises(ValueError, match=rf"^minari:theirs-v1, episode 0: .*{line}"):
        list(MinariDataset("theirs-v1").episodes())


def test_names(folder):
    assert place_of("ab/b-v0") == folder / "ab" / "b-v0"
    for name in ("b", "../b-v0", "/b-v0", "a//b-v0", ""):
        with pytest.raises(ValueError, match="expected a name like walker/mixed-v0"):
            check_new(name)
    with pytest.raises(FileNotFoundError, match=r"expected a dataset on this machine.*minari download b-v0"):
        MinariDataset("b-v0")
    write_minari("b-v0", [make_episode(3)], *SPACES, {})
    with pytest.raises(ValueError, match="got 'b-v0', which exists"):
        write_minari("b-v0", [], *SPACES, {})


def test_whatever_fails_leaves_nothing(folder):
    def broken():
        yield make_episode(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_minari("ab/b-v0", broken(), *SPACES, {})
    assert not (folder / "ab" / "b-v0").exists()


def test_damaged_files_are_one_line(folder):
    write_minari("b-v0", [make_episode(30)], *SPACES, {"task": "x"})
    data = folder / "b-v0" / "data"
    metadata = json.loads((data / "metadata.json").read_text())
    (data / "main_data.hdf5").write_bytes((data / "main_data.hdf5").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"^minari:b-v0"):
        list(MinariDataset("b-v0").episodes())
    for text in ("{", json.dumps(metadata | {"aime": "{"})):
        (data / "metadata.json").write_text(text)
        with pytest.raises(ValueError, match=r"^minari:b-v0: "):
            MinariDataset("b-v0")
