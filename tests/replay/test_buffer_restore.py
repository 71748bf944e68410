"""ReplayBuffer and its store: what is written, read back and resumed."""

import io
from itertools import islice
from pathlib import Path

import pytest
import torch

from replay import EpisodeStore
from tests.replay.replay_rows import contents, decode, make_buffer, make_episode, ticks


def test_state_round_trip_samples_the_same_chunks(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    buffer = make_buffer(50, seed=5, store=store)
    for number in range(9):
        buffer.add_episode(make_episode(8 + number % 3, episode=number))
    buffer.sample(4, 6)
    state = buffer.state_dict()
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)

    buffer.add_episode(make_episode(9, episode=77))  # behind the checkpoint, so no part of it
    store.remove_newer(state["last_number"])
    resumed = make_buffer(50, seed=0, store=EpisodeStore(tmp_path))
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    assert resumed.restore(EpisodeStore(tmp_path)) == 50

    uninterrupted = make_buffer(50, seed=5)
    for number in range(9):
        uninterrupted.add_episode(make_episode(8 + number % 3, episode=number))
    uninterrupted.sample(4, 6)
    for number in range(20, 30):
        for a, b in zip(*(buffer.sample(5, 7).fields().values() for buffer in (uninterrupted, resumed)), strict=True):
            assert torch.equal(a, b)
        for either in (uninterrupted, resumed):
            either.add_episode(make_episode(11, episode=number))


def test_restore_leaves_out_what_the_state_does_not_know(tmp_path: Path) -> None:
    buffer = make_buffer(50, store=EpisodeStore(tmp_path))
    buffer.add_episode(make_episode(5, episode=1))
    state = buffer.state_dict()
    buffer.add_episode(make_episode(6, episode=2))
    resumed = make_buffer(50)
    resumed.load_state_dict(state)
    assert resumed.restore(EpisodeStore(tmp_path)) == 5
    assert contents(resumed) == [(0, 1, t) for t in range(5)]
    without_state = make_buffer(50)
    assert without_state.restore(EpisodeStore(tmp_path)) == 11


@pytest.mark.parametrize("capacity", [6, 13, 100])
def test_restore_keeps_the_newest_rows_in_order(tmp_path: Path, capacity: int) -> None:
    store = EpisodeStore(tmp_path)
    for number, length in enumerate([5, 3, 9, 4]):
        store.append(make_episode(length, episode=number))
    buffer = make_buffer(capacity)
    rows = [(0, number, t) for number, length in enumerate([5, 3, 9, 4]) for t in range(length)]
    assert buffer.restore(store) == min(capacity, len(rows))
    assert contents(buffer) == rows[-capacity:]
    assert len(store) == 4  # nothing was written again


def test_restore_goes_on_past_a_damaged_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = EpisodeStore(tmp_path)
    paths = [store.append(make_episode(5, episode=number)) for number in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:-7])
    buffer = make_buffer()
    assert buffer.restore(store) == 10
    assert [row[1] for row in contents(buffer)] == [0] * 5 + [2] * 5
    assert [path.name for path in store.damaged] == ["00000001-5.ep.damaged"]
    assert "quarantined" in caplog.text


def test_finished_episodes_go_to_the_store_as_they_are(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    buffer = make_buffer(num_envs=2, store=store)
    for step in islice(ticks(2, lambda worker, episode: 6), 12):
        buffer.add(step)
    assert len(store) == 4
    loaded = [decode(episode.image) for episode in store.load_all()]
    assert [(int(w[0]), int(e[0])) for w, e, _ in loaded] == [(0, 0), (1, 0), (0, 1), (1, 1)]
