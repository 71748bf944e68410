"""ReplayBuffer while episodes run: their rows are sampled, count towards the capacity, and survive a checkpoint."""

import io
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from replay import EpisodeStore, ReplayBuffer
from tests.replay.replay_rows import assert_legal, decode, make_buffer, make_episode, ticks

Row = tuple[int, int, int]


def windows(buffer: ReplayBuffer, length: int, draws: int) -> Counter[tuple[Row, ...]]:
    """How often each window was drawn, as (worker, episode, step) of its rows."""
    chunk = buffer.sample(draws, length)
    assert_legal(chunk)
    columns = [part.tolist() for part in decode(chunk.image.numpy())]
    return Counter(tuple(zip(*rows, strict=True)) for rows in zip(*columns, strict=True))


def test_rows_are_sampled_from_the_first_chunk_on() -> None:
    buffer = make_buffer(num_envs=2)
    source = ticks(2, lambda worker, episode: 50)
    for count, step in enumerate(islice(source, 9), 1):
        buffer.add(step)
        assert buffer.can_sample(4) == (count >= 4)
    assert set(windows(buffer, 9, 50)) == {tuple((worker, 0, t) for t in range(9)) for worker in (0, 1)}
    with pytest.raises(ValueError, match=r"^length: got 10, expected 1 to 9 "):
        buffer.sample(1, 10)


def test_every_field_of_a_running_episode_comes_back_bit_for_bit() -> None:
    """The newest row as well: rows are added when their action is chosen."""
    buffer, episode = make_buffer(), make_episode(30)
    for t in range(20):
        buffer.add(episode.map(lambda field, t=t: field[t : t + 1]))
    for got, put in zip(buffer.sample(1, 20).fields().values(), episode.fields().values(), strict=True):
        np.testing.assert_array_equal(got[0].numpy(), put[:20])
    assert buffer.finish_partial() == 1
    cut = buffer.sample(1, 20)
    assert cut.is_last[0].tolist() == [False] * 19 + [True]
    assert not cut.action[0, -1].any()
    assert not cut.is_terminal.any()


def test_starts_are_uniform_over_finished_and_running_rows() -> None:
    buffer = make_buffer(60, num_envs=3, seed=3)
    for step in islice(ticks(3, lambda worker, episode: (7, 11, 20)[worker]), 50):
        buffer.add(step)
    running, length = buffer.num_running.tolist(), 4
    assert (len(buffer), running) == (60 - 17, [1, 6, 10])  # the ring has wrapped
    expected = len(buffer) - length + 1 + sum(max(0, rows - length + 1) for rows in running)
    counts = windows(buffer, length, 200 * expected)
    assert len(counts) == expected
    # fixed seed; a uniform sampler falls below 1e-3 once in a thousand seeds
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(12, 40),
    num_envs=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    count=st.integers(1, 60),
    length=st.integers(1, 6),
    drop=st.integers(0, 3),
)
def test_against_lists(capacity: int, num_envs: int, lengths: list[int], count: int, length: int, drop: int) -> None:
    """Finished rows in one list, running ones in one each; half way one environment is lost."""
    buffer = make_buffer(capacity, num_envs=num_envs)
    lengths = [min(rows, buffer.longest) for rows in lengths]
    finished: list[Row] = []
    running: list[list[Row]] = [[] for _ in range(num_envs)]
    added = 0

    def trim() -> None:
        room = capacity - sum(map(len, running))
        del finished[: max(0, len(finished) - room)]

    source = ticks(num_envs, lambda worker, episode: lengths[(worker + episode) % 4])
    for step in islice(source, count):
        buffer.add(step)
        for env, row in enumerate(zip(*(part.tolist() for part in decode(step.image)), strict=True)):
            running[env].append(row)
        trim()
        for env in np.flatnonzero(step.is_last):
            finished += running[env]
            running[env] = []
        added += num_envs
        assert len(buffer) + buffer.num_staged == min(capacity, added)
    if drop < num_envs:
        closed = buffer.finish_partial([drop])
        finished += running[drop] if closed else []
        assert closed == (len(running[drop]) >= 2)
        running[drop] = []
    assert (len(buffer), buffer.num_running.tolist()) == (len(finished), [len(rows) for rows in running])
    found = {
        tuple(rows[i : i + length]) for rows in [finished, *running] for i in range(max(0, len(rows) - length + 1))
    }
    assert buffer.can_sample(length) == bool(found)
    if found:
        assert set(windows(buffer, length, 20 * len(found))) <= found


def rows_of(buffer: ReplayBuffer) -> list[Any]:
    """What a buffer would draw next, and how it is filled."""
    return [
        len(buffer),
        buffer.num_running.tolist(),
        *(field for _ in range(5) for field in buffer.sample(6, 5).fields().values()),
    ]


@pytest.mark.parametrize("is_dropped", [False, True])
def test_a_restored_buffer_goes_on_bit_for_bit(tmp_path: Path, is_dropped: bool) -> None:
    """Also where a single row was dropped, which leaves room that older rows no longer come back into."""
    store = EpisodeStore(tmp_path)
    buffer = make_buffer(50, num_envs=2, seed=5, store=store)
    source = ticks(2, lambda worker, episode: 8 + 5 * worker)
    for step in islice(source, 66):
        buffer.add(step)
    assert buffer.num_running.tolist() == [2, 1]
    if is_dropped:
        assert buffer.finish_partial([1]) == 0
    assert len(buffer) + buffer.num_staged == 50 - is_dropped
    buffer.sample(4, 6)
    stream = io.BytesIO()
    torch.save(buffer.state_dict(), stream)
    stream.seek(0)
    resumed = make_buffer(50, num_envs=2, seed=0, store=EpisodeStore(tmp_path))
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    resumed.restore(EpisodeStore(tmp_path))
    for left, right in zip(rows_of(buffer), rows_of(resumed), strict=True):
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
    assert str(buffer.state_dict()["rng"]) == str(resumed.state_dict()["rng"])


def test_a_state_of_before_running_rows_were_sampled_is_taken(tmp_path: Path) -> None:
    """Then they lay outside of the capacity; now the oldest finished rows make room for them."""
    buffer = make_buffer(30, num_envs=2, store=EpisodeStore(tmp_path))
    for step in islice(ticks(2, lambda worker, episode: 10), 34):
        buffer.add(step)
    state = {name: value for name, value in buffer.state_dict().items() if name != "rows"}
    resumed = make_buffer(30, num_envs=2)
    resumed.load_state_dict(state)
    assert resumed.restore(EpisodeStore(tmp_path)) == 30 - 2 * 4
    assert resumed.num_running.tolist() == [4, 4]
    smaller = make_buffer(6, num_envs=2)
    with pytest.raises(
        ValueError, match=r"^unfinished\[0\]: got a running episode of 4 rows .*, expected at most 3 .*new ones begin"
    ):
        smaller.load_state_dict(state)


def test_finished_rows_are_not_copied_when_their_episode_ends() -> None:
    buffer = make_buffer(40)
    source = ticks(1, lambda worker, episode: 20)
    for step in islice(source, 19):
        buffer.add(step)
    slots = buffer._running[0, :19].copy()
    buffer.add(next(source))
    np.testing.assert_array_equal(buffer._finished[:19], slots)
