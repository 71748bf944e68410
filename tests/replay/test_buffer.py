"""ReplayBuffer: capacity, contiguity, mixing, wrapping, uniformity."""

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from replay import Chunk, ReplayBuffer, row_bytes
from tests.replay.replay_rows import (
    ACTION_DIM,
    IMAGE_SHAPE,
    assert_legal,
    contents,
    decode,
    make_buffer,
    make_episode,
    ticks,
)

ROW_BYTES = 4 * 4 * 3 + 4 + 3 + 4 * ACTION_DIM


def test_chunk_types_and_shapes() -> None:
    buffer = make_buffer()
    buffer.add_episode(make_episode(20, is_terminal=True))
    chunk = buffer.sample(3, 5)
    expected = {
        "image": (torch.uint8, (3, 5, *IMAGE_SHAPE)),
        "reward": (torch.float32, (3, 5)),
        "is_first": (torch.bool, (3, 5)),
        "is_last": (torch.bool, (3, 5)),
        "is_terminal": (torch.bool, (3, 5)),
        "action": (torch.float32, (3, 5, ACTION_DIM)),
    }
    assert {name: (field.dtype, tuple(field.shape)) for name, field in chunk.fields().items()} == expected
    moved = chunk.to("meta")
    assert isinstance(moved, Chunk)
    assert all(field.device.type == "meta" for field in moved.fields().values())


def test_every_field_comes_back_bit_for_bit() -> None:
    buffer = make_buffer()
    episode = make_episode(30, is_terminal=True)
    buffer.add_episode(episode)
    for got, put in zip(buffer.sample(1, 30).fields().values(), episode.fields().values(), strict=True):
        np.testing.assert_array_equal(got[0].numpy(), put)


@pytest.mark.parametrize("capacity", [7, 10, 23])
def test_exact_capacity_and_order_over_many_wraps(capacity: int) -> None:
    buffer = make_buffer(capacity)
    everything: list[tuple[int, int, int]] = []
    for number in range(40):
        length = 1 + (3 * number) % 7
        buffer.add_episode(make_episode(length, episode=number))
        everything += [(0, number, t) for t in range(length)]
        assert len(buffer) == min(len(everything), capacity)
        assert contents(buffer) == everything[-capacity:]
        assert buffer.num_episodes == len({row[1] for row in everything[-capacity:]})


def test_capacity_is_the_lesser_of_rows_and_bytes() -> None:
    assert row_bytes(IMAGE_SHAPE, ACTION_DIM) == ROW_BYTES
    assert make_buffer(100, capacity_bytes=50 * ROW_BYTES + ROW_BYTES - 1).capacity == 50
    assert make_buffer(30, capacity_bytes=50 * ROW_BYTES).capacity == 30
    only_bytes = ReplayBuffer(capacity_bytes=10**6, action_dim=6)
    assert only_bytes.capacity == 10**6 // (64 * 64 * 3 + 4 + 3 + 24)
    assert 0.98 * 10**6 < only_bytes.num_bytes <= 10**6


def test_memory_is_taken_as_the_ring_fills() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc here")
    before = resident()
    buffer = ReplayBuffer(capacity_bytes=2 * 10**9, action_dim=6)
    assert resident() - before < 100e6
    assert buffer.num_bytes > 1.9e9


RING_ROWS = 5000


def own_memory() -> int:
    """Bytes of this process that only swapping could free: what is mapped from a file is not among them."""
    return 1024 * int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])


def memory_of_a_full_ring(memmap_folder: Path | None) -> int:
    """Bytes of its own that a process takes to fill a ring; to be called in a fresh one, which has none to reuse."""
    episode = make_episode(500)
    wide = episode._replace(image=np.tile(episode.image, (1, 16, 16, 1)))  # 64 x 64: 61 MB in all
    buffer = ReplayBuffer(RING_ROWS, action_dim=ACTION_DIM, memmap_folder=memmap_folder)
    before = own_memory()
    for _ in range(RING_ROWS // 500):
        buffer.add_episode(wide)
    assert len(buffer) == RING_ROWS
    return own_memory() - before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_ring_in_a_file_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    frames = RING_ROWS * 64 * 64 * 3
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as fresh:
        in_file, in_memory = fresh.map(memory_of_a_full_ring, [tmp_path, None])
    assert in_file < 0.1 * frames
    assert in_memory > 0.9 * frames
    assert not list(tmp_path.iterdir())  # the file has no name, so that nothing stays behind


def test_a_ring_in_a_file_holds_what_one_in_memory_holds(tmp_path: Path) -> None:
    buffers = [make_buffer(37, num_envs=2, seed=5, memmap_folder=folder) for folder in (None, tmp_path)]
    for count, step in enumerate(islice(ticks(2, lambda worker, episode: 5 + worker), 100)):
        for buffer in buffers:
            buffer.add(step)
        if count > 10:
            for left, right in zip(*(buffer.sample(3, 9).fields().values() for buffer in buffers), strict=True):
                assert torch.equal(left, right)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_chunks_reach_the_gpu_unchanged() -> None:
    plain, pinned = make_buffer(seed=1), make_buffer(seed=1, pin_memory=True)
    for buffer in (plain, pinned):
        buffer.add_episode(make_episode(90))
    for _ in range(50):  # often enough for pinned memory to be used again
        left, right = plain.sample(8, 20), pinned.sample(8, 20)
        assert all(field.is_pinned() for field in right.fields().values())
        for expected, field in zip(left.fields().values(), right.to("cuda").fields().values(), strict=True):
            assert torch.equal(expected, field.cpu())


@pytest.mark.parametrize("num_envs", [1, 3])
def test_workers_are_never_mixed_and_boundaries_are_marked(num_envs: int) -> None:
    buffer = make_buffer(97, num_envs=num_envs)
    crossings = 0
    for count, step in enumerate(islice(ticks(num_envs, lambda worker, episode: 5 + 2 * worker + episode % 4), 300)):
        buffer.add(step)
        if count > 30 and count % 10 == 0:
            chunk = buffer.sample(8, 12)
            assert_legal(chunk)
            crossings += int(chunk.is_first[:, 1:].sum())
    assert crossings > 100  # longer than most episodes: finished rows' windows cross, with is_first inside
    assert len(buffer) + buffer.num_staged == 97


def test_running_episodes_are_no_finished_ones() -> None:
    buffer = make_buffer(num_envs=2)
    source = ticks(2, lambda worker, episode: 10 + worker)
    for step in islice(source, 9):
        buffer.add(step)
    assert (len(buffer), buffer.num_staged, buffer.num_episodes) == (0, 18, 0)
    buffer.add(next(source))
    assert (len(buffer), buffer.num_staged, buffer.num_episodes) == (10, 10, 1)


def test_the_buffer_keeps_copies() -> None:
    buffer = make_buffer()
    for step in islice(ticks(1, lambda worker, episode: 6), 6):
        buffer.add(step)
        for field in step.fields().values():
            field[...] = 1  # an environment that reuses its arrays
    assert contents(buffer) == [(0, 0, t) for t in range(6)]


def test_a_chunk_shares_no_memory_with_the_ring() -> None:
    buffer = make_buffer(10)
    buffer.add_episode(make_episode(10))
    chunk = buffer.sample(1, 10)
    for field in chunk.fields().values():
        field.zero_()
    assert contents(buffer) == [(0, 0, t) for t in range(10)]
    kept = buffer.sample(1, 10)
    before = kept.image.clone()
    buffer.add_episode(make_episode(10, episode=1))
    assert torch.equal(kept.image, before)


def test_starts_are_uniform_also_around_the_seam() -> None:
    buffer = make_buffer(40, seed=3)
    for number in range(9):
        buffer.add_episode(make_episode(7, episode=number))  # 63 rows: the ring has wrapped
    length, draws = 6, 7000
    chunk = buffer.sample(draws, length)
    _, episodes, steps = decode(chunk.image[:, 0].numpy())
    counts = Counter(zip(episodes.tolist(), steps.tolist(), strict=True))
    assert len(counts) == 40 - length + 1
    # fixed seed; a uniform sampler falls below 1e-3 once in a thousand seeds
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_recency_is_the_power_of_a_window_s_place_also_around_the_seam() -> None:
    """A density proportional to u^2 over places u in [0, 1]: the i-th of n windows has (i + 1)^3 - i^3 of n^3."""
    buffer = make_buffer(40, seed=3, recency=2.0)
    for number in range(9):
        buffer.add_episode(make_episode(7, episode=number))
    length, draws = 6, 7000
    chunk = buffer.sample(draws, length)
    _, episodes, steps = decode(chunk.image[:, 0].numpy())
    counts = Counter((7 * episodes + steps).tolist())
    newest = 7 * 9 - length
    found = [counts[newest - back] for back in range(35)][::-1]
    places = np.arange(35)
    expected = draws * ((places + 1.0) ** 3 - places**3) / 35**3
    assert sum(found) == draws
    often = expected >= 5  # as the test of chi squares wants it
    assert (
        stats.chisquare(
            np.array(found)[often], expected[often] * sum(np.array(found)[often]) / sum(expected[often])
        ).pvalue
        > 1e-3
    )


@pytest.mark.parametrize(("recency", "shares"), [(0.0, (0.60, 0.25, 0.12, 0.03)), (2.0, (0.37, 0.32, 0.23, 0.08))])
def test_recency_evens_out_how_often_rows_are_replayed(recency: float, shares: tuple[float, ...]) -> None:
    """Quarters of a run that samples as it collects: the integrals of ln(1 / t) and of (1 - t^2) 3 / 2."""
    buffer, counts = make_buffer(400, recency=recency), np.zeros(400)
    for number in range(40):
        buffer.add_episode(make_episode(10, episode=number))
        _, episodes, steps = decode(buffer.sample(500, 1).image[:, 0].numpy())
        np.add.at(counts, 10 * episodes + steps, 1)
    np.testing.assert_allclose(counts.reshape(4, 100).sum(1) / counts.sum(), shares, atol=0.02)


@pytest.mark.parametrize("recency", [0.0, 1.5])
def test_sampling_is_decided_by_the_seed(recency: float) -> None:
    def starts(seed: int) -> list[int]:
        buffer = make_buffer(seed=seed, recency=recency)
        buffer.add_episode(make_episode(90))
        return decode(buffer.sample(20, 3).image[:, 0].numpy())[2].tolist()

    assert starts(1) == starts(1)
    assert starts(1) != starts(2)


def test_finish_partial_closes_what_is_open() -> None:
    buffer = make_buffer(num_envs=3)
    source = ticks(3, lambda worker, episode: 4 if worker == 2 else 10)
    for step in islice(source, 5):
        buffer.add(step)  # worker 2 has begun its second episode: one row
    assert buffer.finish_partial() == 2
    assert buffer.num_staged == 0
    assert len(buffer) == 4 + 5 + 5
    chunk = buffer.sample(1, 14)
    assert_legal(chunk)
    assert chunk.is_last[0].nonzero().flatten().tolist() == [3, 8, 13]
    assert not chunk.is_terminal.any()
    assert buffer.finish_partial() == 0
    for step in islice(ticks(3, lambda worker, episode: 4), 4):
        buffer.add(step)  # a new run starts with reset frames
    assert len(buffer) == 26


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(1, 30),
    lengths=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12)), max_size=25),
    length=st.integers(1, 12),
)
def test_against_a_list(capacity: int, lengths: list[tuple[int, int]], length: int) -> None:
    buffer = make_buffer(capacity)
    model: list[tuple[int, int, int]] = []
    for number, (worker, rows) in enumerate(lengths):
        if rows > capacity:
            with pytest.raises(ValueError, match="at most the capacity"):
                buffer.add_episode(make_episode(rows, worker, number))
            continue
        buffer.add_episode(make_episode(rows, worker, number))
        model = (model + [(worker, number, t) for t in range(rows)])[-capacity:]
    assert contents(buffer) == model
    assert buffer.can_sample(length) == (length <= len(model))
    if buffer.can_sample(length):
        chunk = buffer.sample(4, length)
        windows = [tuple(model[i : i + length]) for i in range(len(model) - length + 1)]
        for parts in zip(*decode(chunk.image.numpy()), strict=True):
            assert tuple(zip(*(part.tolist() for part in parts), strict=True)) in windows
