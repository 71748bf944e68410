"""Checkpoints whose checksum is right and whose contents are not: one line each, nothing run, nothing large made."""

import hashlib
import io
import os
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest
import torch

from agent import load
from agent.run_folder.checkpoint import load_checkpoint, write_checkpoint
from agent.run_folder.load import load_run
from run_agent import main
from tests.faults.golden_run import contents, tamper, unpack

WRONG = {
    "a part is missing": (("collector",), None, "payload: got a dict without 'collector'"),
    "a part is unknown": (("extra",), 1, "payload: got a dict with 'extra'"),
    "counters": (("counters", "updates"), -1, "payload.counters.updates: got -1"),
    "a clock": (("counters", "wall_seconds"), float("nan"), "wall_seconds: got nan, expected a finite number"),
    "other updates": (("agent", "updates"), 7, "agent.updates: got 7, expected 1"),
    "the agent": (("agent",), [1], "payload.agent: got a list of 1"),
    "a weight": (
        ("agent", "model", "teacher.layers.0.bias"),
        torch.zeros(9),
        "layers.0.bias: got torch.float32",
    ),
    "its dtype": (("agent", "actor_critic", "return_range"), torch.zeros(2, dtype=torch.int8), "agent.actor_critic"),
    "actions": (("agent", "action_dim"), 3, "agent.model"),
    "moments": (("agent", "model_optimizer", "state", 0, "exp_avg"), torch.zeros(3), "state.0.exp_avg: got"),
    "Adam's settings": (("agent", "behavior_optimizer", "param_groups", 0, "betas"), "x", "betas: got x"),
    "consensus": (("agent", "rgb", "aggregator", "d"), torch.zeros(5), "agent.rgb.aggregator.d: got"),
    "a generator": (("agent", "generators", "act"), torch.ones(5056, dtype=torch.uint8), "agent.generators.act: got"),
    "the sampler": (("replay", "rng", "state"), {"state": -1, "inc": "x"}, "replay.rng: got something else"),
    "last_number": (("replay", "last_number"), 0, "replay.episodes.number: got numbers out of order"),
    "digests": (("replay", "episodes", "digest"), torch.zeros(3, 32, dtype=torch.uint8), "replay.episodes: got lists"),
    "rows in flight": (("replay", "unfinished", 0), torch.ones(900, dtype=torch.uint8), "replay.unfinished[0]: magic"),
    "an environment more": (("config", "env", "num_envs"), 2, "collector.driver.row.image: got"),
    "a frame": (
        ("collector", "driver", "row", "image"),
        torch.zeros(1, 32, 32, 3, dtype=torch.uint8),
        "row.image: got",
    ),
    "an action": (("collector", "driver", "actions", 0), torch.full((4, 1), 9.0), "outside [-1, 1]"),
    "the memory": (("collector", "memory"), [torch.zeros(1)], "collector.memory: got a list of 1"),
    "means": (("means", "counts"), {"kl_z": 0}, "means.counts"),
    "python's state": (("random", "python"), (3, (1, 2), None), "random.python: got something else"),
    "a setting": (
        ("config", "behavior", "gamma"),
        "0.9",
        "config: behavior.gamma: got '0.9', expected a",
    ),
    "an unknown setting": (("config", "behavior", "gama"), 0.9, "the nearest known one is 'behavior.gamma'"),
    "a wide model": (
        ("config", "world_model", "hidden_dim"),
        10**6,
        "config: got a model that is larger than its file",
    ),
    "a deep model": (("config", "behavior", "num_layers"), 10**7, "config: got a model that is larger"),
    "far too wide": (("config", "world_model", "hidden_dim"), 2**62, "config: "),
}


def put(payload, keys, value):
    for key in keys[:-1]:
        payload = payload[key]
    if value is None:
        del payload[keys[-1]]
    else:
        payload[keys[-1]] = value


def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_part_is_named_before_anything_is_restored(tmp_path, name):
    keys, value, expected = WRONG[name]
    path = unpack(tmp_path)
    tamper(tmp_path, lambda payload: put(payload, keys, value))
    before = peak()
    with pytest.raises(ValueError, match=r"^no good checkpoint among 1; the newest: checkpoint ") as caught:
        load_run(tmp_path)
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak() - before < 200 * 2**20


def test_the_run_goes_on_from_the_one_before(tmp_path, caplog):
    path = unpack(tmp_path)
    newer = load_checkpoint(path)
    newer["counters"]["updates"] = newer["agent"]["updates"] = 2
    newer["agent"]["model_optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    write_checkpoint(path.with_name("000000002.pt"), newer)
    assert load_run(tmp_path)["counters"]["updates"] == 1
    assert "model_optimizer.state.0.exp_avg" in caplog.text
    assert "continuing from 000000001.pt" in caplog.text


def test_a_file_under_another_name_or_behind_a_link_is_not_taken(tmp_path):
    path = unpack(tmp_path)
    renamed = path.rename(path.with_name("000000005.pt"))
    with pytest.raises(ValueError, match=r"counters\.updates: got 1, expected 5 as in its name"):
        load_run(tmp_path)
    outside = renamed.rename(tmp_path.parent / f"{tmp_path.name}.outside")
    path.symlink_to(outside)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        load_run(tmp_path)


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """What torch.save writes, around any pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression, compresslevel=1) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", b"3\n")
        for name, content in members.items():
            file.writestr(f"archive/data/{name.removeprefix('_')}", content)
    return stream.getvalue()


def saved(value) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def overlapping() -> bytes:
    """A directory that names the same bytes again and again."""
    data = bytearray(archive(b"\x80\x02}.", _0=bytes(10**6)))
    end = data.rindex(b"PK\x05\x06")
    count, _, start = struct.unpack_from("<HII", data, end + 10)
    directory = bytes(data[start:end])
    data[end:end] = directory * 400
    end += 400 * len(directory)
    struct.pack_into("<HHI", data, end + 8, 401 * count, 401 * count, 401 * len(directory))
    return bytes(data)


CRAFTED = {
    "code": lambda: pickle.dumps(Trap(), protocol=2),
    "code in an archive": lambda: archive(pickle.dumps(Trap(), protocol=2)),
    "code inside a payload": lambda: saved({"counters": Trap()}),
    "a bomb": lambda: archive(b"\x80\x02}.", zipfile.ZIP_DEFLATED, _0=bytes(250_000_000)),
    "the same bytes many times": overlapping,
    "a huge tensor over few bytes": lambda: saved({"agent": torch.zeros(1).expand(2**40)}),
    "a sparse tensor": lambda: saved(
        {"agent": torch.sparse_coo_tensor([[0]], [1.0], (2**40,), check_invariants=False)}
    ),
    "lists 10,000 deep": lambda: archive(b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b"."),
    "tuples 10,000 deep": lambda: archive(b"\x80\x02)" + b"\x85" * 10_000 + b"."),
    "a text of 1 GB": lambda: archive(b"\x80\x02X" + struct.pack("<I", 2**30) + b"x."),
    "no archive": lambda: b"\x80\x02}.",
    "an empty archive": lambda: archive(b""),
    "a list": lambda: saved([1, 2]),
    "numpy": lambda: saved({"counters": np.float64(1.0)}),
    "a torchscript": lambda: archive(b"\x80\x02}.", _constants=b""),
    "names that climb": lambda: archive(b"\x80\x02}.", **{"../../../../climbed": b"x"}),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files_are_refused_in_one_line(tmp_path, monkeypatch, capsys, name):
    path = unpack(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    body = CRAFTED[name]()
    path.write_bytes(struct.pack("<6sH32sQ", b"AIMERL", 2, hashlib.sha256(body).digest(), len(body)) + body)
    written, before = contents(tmp_path / "run"), peak()
    del body
    for command in (["train", "--resume"], ["evaluate"]):
        assert main([*command, "--logdir", str(tmp_path / "run")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "000000001.pt: " in lines[0]
    assert peak() - before < 200 * 2**20
    assert not (tmp_path / "trapped").exists()
    assert list(tmp_path.rglob("*climbed*")) == []
    assert contents(tmp_path / "run") == written


def test_an_agent_is_not_taken_from_another_run(tmp_path):
    unpack(tmp_path)
    tamper(tmp_path, lambda payload: put(payload, ("config", "seed"), 9))
    with pytest.raises(ValueError, match=r"config\.yaml: got other settings than its checkpoint's \(seed: 9 -> 0\)"):
        load(tmp_path, "cpu")
