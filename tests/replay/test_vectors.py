"""Vectors in rows: stored and sampled with their own row, in files bit for bit, and absent where there are none."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.pixels import observation_space
from replay import Episode, EpisodeStore, ReplayBuffer, row_bytes
from replay.entries import pack_rows, unpack_rows
from replay.episode_file import MAGIC, PREFIX, decode, encode
from replay.npz_format import read_npz
from tests.replay.replay_rows import ACTION_DIM, IMAGE_SHAPE, make_buffer, make_episode
from tests.replay.replay_rows import decode as decode_image

V = 3


def with_vector(episode: Episode) -> Episode:
    """The same numbers as in the frame."""
    return episode._replace(vector=np.stack(decode_image(episode.image), -1).astype(np.float32))


def assert_same(left: Episode, right: Episode) -> None:
    assert left.fields().keys() == right.fields().keys()
    for name, values in left.fields().items():
        assert values.dtype == right.fields()[name].dtype
        np.testing.assert_array_equal(values, right.fields()[name], err_msg=name)


def fill(buffer: ReplayBuffer) -> None:
    """Episodes of two environments side by side, over several turns of the ring."""
    episodes = [[with_vector(make_episode(9 + worker, worker, e)) for e in range(12)] for worker in (0, 1)]
    rows = [
        [episode.map(lambda x, t=t: x[t : t + 1]) for episode in own for t in range(len(episode.reward))]
        for own in episodes
    ]
    for tick in zip(*rows, strict=False):
        for env, row in enumerate(tick):
            buffer.add(row, [env])


def test_a_sampled_vector_is_that_of_its_frame(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    buffer = make_buffer(50, vector_dim=V, num_envs=2, store=store)
    fill(buffer)
    for _ in range(20):
        chunk = buffer.sample(4, 8)
        assert chunk.vector is not None
        assert (chunk.vector.dtype, chunk.vector.shape) == (torch.float32, (4, 8, V))
        np.testing.assert_array_equal(chunk.vector.numpy(), np.stack(decode_image(chunk.image.numpy()), -1))
    again = make_buffer(50, vector_dim=V, num_envs=2, store=store)
    again.load_state_dict(buffer.state_dict())
    again.restore(store)
    for left, right in zip(buffer.sample(5, 7).fields().values(), again.sample(5, 7).fields().values(), strict=True):
        assert torch.equal(left, right)


def test_without_vectors_nothing_is_stored() -> None:
    buffer = make_buffer()
    buffer.add_episode(make_episode(9))
    assert buffer.sample(1, 4).vector is None
    assert row_bytes(IMAGE_SHAPE, ACTION_DIM, V) - row_bytes(IMAGE_SHAPE, ACTION_DIM) == 4 * V
    data = encode(make_episode(9), {})
    _, version, length = PREFIX.unpack_from(data)
    names = [name for name, *_ in json.loads(data[PREFIX.size : PREFIX.size + length])["fields"]]
    assert (data[: len(MAGIC)], version) == (MAGIC, 1)
    assert names == ["reward", "action", "is_first", "is_last", "is_terminal", "image"]  # as ever


def test_an_episodes_file_holds_them_bit_for_bit() -> None:
    for episode in (with_vector(make_episode(9, is_terminal=True)), make_episode(9)):
        found, metadata = decode(encode(episode, {"seed": 1}))
        assert metadata == {"seed": 1}
        assert_same(found, episode)
        part = unpack_rows(pack_rows(episode.map(lambda x: x[:4])))
        assert part is not None
        assert_same(part, episode.map(lambda x: x[:4]))


@pytest.mark.parametrize(
    ("vector", "vector_dim", "line"),
    [
        (np.full((5, V), np.nan, np.float32), V, "episode.vector: got nan, expected finite numbers"),
        (np.zeros((5, V + 1), np.float32), V, r"episode.vector: got float32 \[5, 4\], expected float32 \[5, 3\]"),
        (np.zeros((5, V)), V, r"episode.vector: got float64 \[5, 3\], expected float32 \[5, 3\]"),
        (None, V, "episode.vector: got NoneType, expected a numpy array"),
        (np.zeros((5, V), np.float32), None, r"episode.vector: got float32 \[5, 3\], expected none"),
    ],
)
def test_other_vectors_are_refused(vector: np.ndarray | None, vector_dim: int | None, line: str) -> None:
    buffer = make_buffer(vector_dim=vector_dim)
    with pytest.raises(ValueError, match=f"^{line}$"):
        buffer.add_episode(make_episode(5)._replace(vector=vector))
    assert len(buffer) == 0


def alone(episode: Episode) -> Episode:
    """The numbers of the frame, without the frame."""
    return with_vector(episode)._replace(image=np.zeros((len(episode.reward), 0, 0, 3), np.uint8))


def test_vectors_alone_are_rows_like_others(tmp_path: Path) -> None:
    episodes, path = [alone(make_episode(n)) for n in (9, 5)], tmp_path / "a.npz"
    for episode in episodes:
        assert_same(decode(encode(episode, {}))[0], episode)
        np.savez(path, vectors=episode.vector, action=episode.action[:-1], reward=episode.reward[1:])  # type: ignore[arg-type]
        assert_same(read_npz(path), episode)
    buffer = make_buffer(image_shape=(0, 0, 3), vector_dim=V, memmap_folder=tmp_path)
    for episode in episodes:
        buffer.add_episode(episode)
    assert buffer.row_bytes == 4 * V + 4 * ACTION_DIM + 4 + 3
    for found, episode in zip(buffer.episodes(), episodes, strict=True):
        assert_same(found, episode)
    with pytest.raises(ValueError, match=r"header: image: got shape \[9, 0, 4, 3\], expected sizes above 0, 9 first"):
        decode(encode(episodes[0]._replace(image=np.zeros((9, 0, 4, 3), np.uint8)), {}))


def test_npz_files_may_have_them(tmp_path: Path) -> None:
    episode, path = with_vector(make_episode(5)), tmp_path / "a.npz"
    arrays = {"image": episode.image, "action": episode.action[:-1], "reward": episode.reward[1:]}
    np.savez(path, vector=episode.vector.astype(np.float64), **arrays)  # type: ignore[union-attr, arg-type]
    assert_same(read_npz(path), episode)
    np.savez(path, vector=np.zeros((4, V)), **arrays)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"vectors: got float64 \[4, 3\], expected numbers \[5, V\], one vector for each frame$"
    ):
        read_npz(path)


@pytest.mark.skipif(find_spec("h5py") is None, reason="needs the extra `data`")
@pytest.mark.parametrize(("rows", "size"), [(with_vector, 4), (alone, 0)])
def test_minari_datasets_hold_them(
    rows: Callable[[Episode], Episode], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from replay.minari_format import MinariDataset, write_minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = [rows(make_episode(n)) for n in (5, 9)]
    space = observation_space(size, V)
    assert write_minari("toy-v0", iter(episodes), space, ACTION_DIM, False, {}) == 2
    for (_, found), episode in zip(MinariDataset("toy-v0").episodes(), episodes, strict=True):
        assert_same(found, episode)
