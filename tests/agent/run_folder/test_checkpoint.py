"""Checkpoints: bit-exact round trips, atomic writes, and every kind of damage is one clear line."""

import errno
import hashlib
import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from agent.run_folder.checkpoint import checkpoint_paths, load_checkpoint, load_newest, save_checkpoint


def payload(number: float = 0.0) -> dict:
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": torch.Generator().manual_seed(3).get_state(),
        "counters": {"env_frames": 12, "seconds": number, "name": "run", "none": None, "flag": True},
        "list": [1, 2.5, (3, "four")],
    }


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_round_trip_is_bit_exact(tmp_path):
    saved = payload()
    path = save_checkpoint(tmp_path / "new" / "folder", saved, updates=7, keep=3)
    assert path.name == "000000007.pt"
    loaded, found = load_newest(path.parent, "cpu")
    assert found == path
    assert equal(saved, loaded)


def test_only_the_newest_are_kept_and_nothing_else_is_left(tmp_path):
    (tmp_path / ".000000001.pt.partial").write_bytes(b"left by a killed run")
    for updates in (1, 5, 10, 200):
        save_checkpoint(tmp_path, payload(), updates, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000010.pt", "000000200.pt"]


def test_a_run_that_fell_back_removes_the_future_it_left(tmp_path):
    for updates in (10, 20, 30):
        save_checkpoint(tmp_path, payload(), updates, keep=3)
    path = save_checkpoint(tmp_path, payload(), 25, keep=1)
    assert checkpoint_paths(tmp_path) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    old = save_checkpoint(tmp_path, payload(1.0), 1, keep=1)

    def fail(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path, payload(2.0), 2, keep=1)
    assert checkpoint_paths(tmp_path) == [old]
    assert load_newest(tmp_path)[0]["counters"]["seconds"] == 1.0


def change(path, position: int, value: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[position : position + len(value)] = value
    path.write_bytes(content)


def flip_last(path) -> None:
    change(path, path.stat().st_size - 100, bytes([path.read_bytes()[-100] ^ 1]))


DAMAGE = {
    "empty": (lambda p: p.write_bytes(b""), "cut short"),
    "cut in the header": (lambda p: p.write_bytes(p.read_bytes()[:20]), "cut short"),
    "cut in the body": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "cut short"),
    "grown": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "damaged"),
    "flipped": (flip_last, "damaged"),
    "another file": (lambda p: p.write_bytes(b"PK" + bytes(500)), "not a checkpoint"),
    "other version": (lambda p: change(p, 6, struct.pack("<H", 99)), "format version 99, expected 2"),
    "huge length": (lambda p: change(p, 40, struct.pack("<Q", 2**62)), "cut short"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_and_an_older_checkpoint_takes_over(tmp_path, caplog, kind):
    old = save_checkpoint(tmp_path, payload(1.0), 1, keep=2)
    new = save_checkpoint(tmp_path, payload(2.0), 2, keep=2)
    harm, expected = DAMAGE[kind]
    harm(new)
    with pytest.raises(ValueError, match=expected) as caught:
        load_checkpoint(new)
    assert "\n" not in str(caught.value)
    assert str(new) in str(caught.value)
    loaded, path = load_newest(tmp_path)
    assert path == old
    assert loaded["counters"]["seconds"] == 1.0
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert new.name in caplog.text


def test_no_good_checkpoint_and_none_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^no checkpoint in .*$"):
        load_newest(tmp_path / "missing")
    (tmp_path / "notes.pt").write_text("not a number: not ours")
    with pytest.raises(FileNotFoundError):
        load_newest(tmp_path)
    save_checkpoint(tmp_path, payload(), 1, keep=1).write_bytes(b"")
    with pytest.raises(ValueError, match=r"^no good checkpoint among 1; the newest: .*cut short.*$"):
        load_newest(tmp_path)


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def test_code_in_a_well_formed_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = io.BytesIO()
    torch.save({"counters": Trap()}, body)
    for content in (body.getvalue(), pickle.dumps(Trap(), protocol=2)):
        header = struct.pack("<6sH32sQ", b"AIMERL", 2, hashlib.sha256(content).digest(), len(content))
        path = tmp_path / "000000001.pt"
        path.write_bytes(header + content)
        with pytest.raises(ValueError, match="more than tensors and plain values") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(2), Trap(), {1, 2}], ids=lambda v: type(v).__name__)
def test_what_could_not_be_loaded_is_refused_at_saving(tmp_path, value):
    with pytest.raises(ValueError, match=r"payload\['a'\]\[1\]: got "):
        save_checkpoint(tmp_path, {"a": [0, value]}, 1, keep=1)
    assert list(tmp_path.iterdir()) == []
