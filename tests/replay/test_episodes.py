"""Episode files: bit-exact, atomic, and never trusted."""

import hashlib
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from replay import EpisodeStore
from replay.episode_file import DIGEST_BYTES, MAGIC, PREFIX, VERSION
from tests.replay.replay_rows import make_episode


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A good file -> (header, payload)."""
    start = PREFIX.size + PREFIX.unpack_from(data)[2]
    return json.loads(data[PREFIX.size : start]), data[start:-DIGEST_BYTES]


def forge(header: Any, payload: bytes, version: int = VERSION, magic: bytes = MAGIC) -> bytes:
    """A file of any contents with a right checksum."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = PREFIX.pack(magic, version, len(text)) + text + payload
    return body + hashlib.blake2b(body, digest_size=32).digest()


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    for episode in (make_episode(1), make_episode(300, is_terminal=True), make_episode(300)._replace(image=noise)):
        path = store.append(episode)
        loaded = store.load(path)
        for got, put in zip(loaded.fields().values(), episode.fields().values(), strict=True):
            assert got.dtype == put.dtype
            assert got.flags.aligned
            assert got.flags.writeable
            np.testing.assert_array_equal(got, put)


def test_long_dull_episodes_are_within_the_bound_on_expansion(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    episode = make_episode(500)
    zeros = {"image": np.zeros((500, 64, 64, 3), np.uint8), "action": np.zeros_like(episode.action)}
    path = store.append(episode._replace(**zeros, reward=np.zeros(500, np.float32)))
    assert store.load(path).image.shape == (500, 64, 64, 3)
    assert path.stat().st_size < 2000


def test_names_numbers_and_metadata(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "new" / "folder")
    first = store.append(make_episode(5), {"task": "cartpole_swingup", "env_frames": 10})
    second = store.append(make_episode(7))
    assert [first.name, second.name] == ["00000000-5.ep", "00000001-7.ep"]
    assert store.load_metadata(first) == {"task": "cartpole_swingup", "env_frames": 10}
    assert store.load_metadata(second) == {}
    assert len(store) == 2
    assert store.num_bytes == first.stat().st_size + second.stat().st_size
    again = EpisodeStore(store.folder)
    assert again.append(make_episode(3)).name == "00000002-3.ep"
    assert [len(episode.reward) for episode in again.load_all()] == [5, 7, 3]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", "x.ep", "00000004.ep"):
        (tmp_path / name).write_text("hello")
    store = EpisodeStore(tmp_path)
    store.append(make_episode(3))
    assert [path.name for path in store.paths()] == ["00000000-3.ep"]
    store.prune(0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000004.ep", "notes.txt", "x.ep"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EpisodeStore(tmp_path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space"):
            store.append(make_episode(5))
    assert list(tmp_path.iterdir()) == []
    assert store.append(make_episode(5)).name == "00000000-5.ep"


def test_rests_of_a_crash_are_no_episodes_and_go(tmp_path: Path) -> None:
    (tmp_path / ".00000000-7.ep.partial").write_bytes(b"half an episode")
    store = EpisodeStore(tmp_path)
    assert store.paths() == []
    store.append(make_episode(5))
    store.remove_newer(0)
    assert [path.name for path in tmp_path.iterdir()] == ["00000000-5.ep"]


def test_removing_and_pruning(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    paths = [store.append(make_episode(5)) for _ in range(6)]
    assert store.remove_oldest() == paths[:1]
    assert store.prune(16) == paths[1:2]  # 16 rows: three whole episodes and a part of a fourth, which stays
    assert store.prune(16) == []
    assert store.remove_newer(3) == paths[4:]
    assert store.paths() == paths[2:4]
    assert store.append(make_episode(5)) == paths[4]
    assert store.prune(0) == paths[2:5]
    assert len(store) == 0


@pytest.mark.parametrize("where", ["magic", "header", "payload", "checksum", "cut", "empty", "grown", "stub"])
def test_damage_is_one_line_and_set_aside(tmp_path: Path, where: str) -> None:
    store = EpisodeStore(tmp_path)
    good = [store.append(make_episode(50)) for _ in range(3)]
    data = bytearray(good[1].read_bytes())
    flips = {"magic": 0, "header": PREFIX.size + 20, "payload": -DIGEST_BYTES - 10, "checksum": -1}
    if where in flips:
        data[flips[where]] ^= 0x10
    data = {"cut": data[: len(data) // 2], "empty": data[:0], "stub": data[:50]}.get(where, data)
    good[1].write_bytes(data + b"\0" * 100 if where == "grown" else data)
    with pytest.raises(ValueError, match="00000001-50") as caught:
        store.load(good[1])
    assert "\n" not in str(caught.value)
    assert [len(episode.reward) for episode in store.load_all()] == [50, 50]
    assert store.paths() == [good[0], good[2]]
    assert store.damaged == [good[1].with_name("00000001-50.ep.damaged")]
    assert store.damaged[0].exists()


def test_every_single_flipped_bit_is_noticed(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    path = store.append(make_episode(4))
    data = path.read_bytes()
    for position in range(0, len(data), 3):
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="00000000-4"):
            store.load(path)


def test_numbers_of_damaged_files_are_not_used_again(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    store.append(make_episode(5)).write_bytes(b"")
    assert list(store.load_all()) == []
    assert EpisodeStore(tmp_path).append(make_episode(5)).name == "00000001-5.ep"


def declare(header: dict[str, Any], length: int) -> dict[str, Any]:
    """The header with another length in every place, consistent in itself."""
    fields = [[name, dtype, [length, *shape[1:]]] for name, dtype, shape in header["fields"]]
    raw_bytes = header["raw_bytes"] // header["length"] * length
    return header | {"length": length, "fields": fields, "raw_bytes": raw_bytes}


@pytest.mark.parametrize("length", [10**6, 10**8, 2**62])
def test_huge_declared_sizes_are_refused_without_allocating(tmp_path: Path, length: int) -> None:
    store = EpisodeStore(tmp_path)
    header, payload = parts(store.append(make_episode(5)).read_bytes())
    path = tmp_path / f"00000009-{length}.ep"
    path.write_bytes(forge(declare(header, length), payload))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="raw bytes, more than a payload of"):
            store.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6


def test_a_payload_of_another_size_than_declared_is_refused(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    header, payload = parts(store.append(make_episode(50)).read_bytes())
    bomb = zstandard.ZstdCompressor().compress(bytes(10**8))
    liar = header | {"payload_bytes": len(bomb)}
    cases = {
        "its size differs": (liar, bomb),
        "payload: got": (header, payload + b"more"),
        "payload: ": (header, b"x" * len(payload)),
    }
    for message, (forged, contents) in cases.items():
        path = tmp_path / "00000009-50.ep"
        path.write_bytes(forge(forged, contents))
        with pytest.raises(ValueError, match=message):
            store.load(path)
    shorter = declare(header, 49)
    path.write_bytes(forge(shorter, payload))
    with pytest.raises(ValueError, match="its size differs"):
        store.load(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[" * 5000,
        b"\xff\xfe",
        b"[]",
        {},
        {"metadata": {}},
        {"metadata": {}, "length": 5, "fields": 3},
        {"metadata": {}, "length": 5, "fields": [1, 2, 3, 4, 5, 6]},
        {"metadata": {}, "length": "5", "fields": []},
    ],
)
def test_malformed_headers_are_one_line(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "00000000-5.ep"
    path.write_bytes(forge(header, b""))
    with pytest.raises(ValueError, match="header: ") as caught:
        EpisodeStore(tmp_path).load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field",
    [
        ["image", "object", [5, 4, 4, 3]],
        ["image", "uint8", [5, 4, 4]],
        ["image", "uint8", [5, -4, 4, 3]],
        ["image", "uint8", [5, True, 4, 3]],
        ["image", "uint8", [6, 4, 4, 3]],
        ["image", "uint8", "5"],
        ["picture", "uint8", [5, 4, 4, 3]],
    ],
)
def test_fields_must_be_the_schema(tmp_path: Path, field: list[Any]) -> None:
    store = EpisodeStore(tmp_path)
    path = store.append(make_episode(5))
    header, payload = parts(path.read_bytes())
    path.write_bytes(forge(header | {"fields": [*header["fields"][:-1], field]}, payload))
    with pytest.raises(ValueError, match="header: "):
        store.load(path)


def test_other_versions_and_magics_are_refused(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    path = store.append(make_episode(5))
    header, payload = parts(path.read_bytes())
    path.write_bytes(forge(header, payload, version=2))
    with pytest.raises(ValueError, match="version: got 2, expected 1"):
        store.load(path)
    path.write_bytes(forge(header, payload, magic=b"PK\x03\x04    "))
    with pytest.raises(ValueError, match="magic"):
        store.load(path)


def test_a_file_must_hold_what_its_name_says(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    path = store.append(make_episode(5))
    renamed = path.rename(tmp_path / "00000000-6.ep")
    with pytest.raises(ValueError, match="got 5 rows, expected 6"):
        store.load(renamed)


def test_only_whole_episodes_are_written(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path)
    half = make_episode(5).map(lambda field: field[:3])
    with pytest.raises(ValueError, match=r"^episode\.is_last"):
        store.append(half)
    with pytest.raises(ValueError, match=r"^metadata: "):
        store.append(make_episode(5), {"note": "x" * 2**21})
    assert list(tmp_path.iterdir()) == []
