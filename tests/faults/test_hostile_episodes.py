"""Episode files that are not what a checkpoint knows: quarantined with a line; the others are restored."""

import os
import tracemalloc

import numpy as np
import pytest

from replay import Episode, EpisodeStore, ReplayBuffer
from replay.episode_file import encode, read

FRAME = (8, 8, 3)


def make_episode(length: int, seed: int, action_dim: int = 2, frame: tuple[int, ...] = FRAME) -> Episode:
    random, steps = np.random.default_rng(seed), np.arange(length)
    action = random.uniform(-1, 1, (length, action_dim)).astype(np.float32)
    action[-1] = 0
    image = random.integers(0, 256, (length, *frame), dtype=np.uint8)
    is_last = steps == length - 1
    reward = random.normal(size=length).astype(np.float32) * (steps > 0)
    return Episode(image, reward.astype(np.float32), steps == 0, is_last, np.zeros(length, bool), action)


@pytest.fixture
def saved(tmp_path):
    """A folder of five episodes of ten rows, and the state of the buffer that knows them."""
    buffer = ReplayBuffer(100, action_dim=2, image_shape=FRAME, store=EpisodeStore(tmp_path))
    for seed in range(5):
        buffer.add_episode(make_episode(10, seed))
    return tmp_path, buffer.state_dict()


def restored(folder, state):
    buffer = ReplayBuffer(100, action_dim=2, image_shape=FRAME)
    buffer.load_state_dict(state)
    return buffer.restore(EpisodeStore(folder)), buffer


def path(folder, number):
    return folder / f"{number:08d}-10.ep"


def swap(folder):
    first, second = path(folder, 1).read_bytes(), path(folder, 2).read_bytes()
    path(folder, 1).write_bytes(second)
    path(folder, 2).write_bytes(first)


def link_out(folder):
    outside = folder.parent / f"{folder.name}.outside"
    path(folder, 1).rename(outside)
    path(folder, 1).symlink_to(outside)


def become_folder(folder):
    path(folder, 1).unlink()
    path(folder, 1).mkdir()


def become_pipe(folder):
    path(folder, 1).unlink()
    os.mkfifo(path(folder, 1))


HARM = {  # what is done, rows that are left, files in quarantine, what is said
    "two changed places": (swap, 30, 2, "it is not the episode that the checkpoint lists"),
    "a link": (link_out, 40, 1, "got a link or a folder"),
    "a folder": (become_folder, 40, 1, "got a link or a folder"),
    "a pipe": (become_pipe, 40, 1, "got a link or a folder"),
    "gone": (lambda f: path(f, 1).unlink(), 40, 0, "1 episodes (10 rows) are missing"),
    "renamed": (lambda f: path(f, 1).rename(f / "00000001-11.ep"), 40, 1, "it does not belong to this run"),
    "a number twice": (lambda f: (f / "00000001-9.ep").write_bytes(b"x"), 50, 1, "it does not belong to this run"),
    "other actions": (
        lambda f: path(f, 1).write_bytes(encode(make_episode(10, 1, 3), {})),
        40,
        1,
        "raw bytes, expected",
    ),
    "other frames": (
        lambda f: path(f, 1).write_bytes(encode(make_episode(10, 1, frame=(4, 4, 3)), {})),
        40,
        1,
        "not the episode that the checkpoint lists",
    ),
    "another episode": (
        lambda f: path(f, 1).write_bytes(encode(make_episode(10, 9), {})),
        40,
        1,
        "not the episode that the checkpoint lists",
    ),
}


@pytest.mark.parametrize("name", HARM)
def test_what_the_checkpoint_does_not_know_is_set_aside(saved, caplog, name):
    folder, state = saved
    harm, rows, aside, said = HARM[name]
    harm(folder)
    found, buffer = restored(folder, state)
    assert found == rows
    assert said in caplog.text
    assert len(list(folder.glob("*.damaged"))) == aside
    assert buffer.sample(1, rows).image.shape == (1, rows, *FRAME)
    assert restored(folder, state)[0] == rows  # and once more, without it


def test_without_a_checkpoint_what_does_not_fit_is_set_aside(saved, caplog):
    folder, _ = saved
    path(folder, 1).write_bytes(encode(make_episode(10, 1, action_dim=1), {}))
    buffer = ReplayBuffer(100, action_dim=2, image_shape=FRAME)
    assert buffer.restore(EpisodeStore(folder)) == 40
    assert "episode.action: got float32 [10, 1], expected float32 [10, 2]" in caplog.text


def test_files_that_vanish_while_they_are_read_are_told(saved, caplog, monkeypatch):
    folder, state = saved

    def vanishing(path, *arguments):
        path.unlink()
        return read(path, *arguments)

    monkeypatch.setattr("replay.episode_file.read", vanishing)
    assert restored(folder, state)[0] == 0
    assert "5 episodes (50 rows) are missing" in caplog.text


def test_an_honest_bomb_is_not_unpacked(saved):
    """Everything as declared, the checksum right: 30 MB of zeros in a few kB, where ten small rows belong."""
    folder, state = saved
    bomb = make_episode(10, 1)._replace(image=np.zeros((10, 1000, 1000, 3), np.uint8))
    path(folder, 1).write_bytes(encode(bomb, {}))
    assert path(folder, 1).stat().st_size < 10_000
    tracemalloc.start()
    try:
        assert restored(folder, state)[0] == 40
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


def test_prune_leaves_what_older_checkpoints_know(tmp_path):
    store = EpisodeStore(tmp_path, num_checkpoints=2)
    paths = [store.append(make_episode(10, seed)) for seed in range(8)]
    assert store.prune(20, needed=2) == paths[:2]
    assert store.prune(20, needed=6) == []  # the checkpoint before knows from 2 on
    assert store.prune(20, needed=6) == paths[2:6]
    assert store.paths() == paths[6:]
