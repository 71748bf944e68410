"""config.yaml: whatever is in it is one line, or is mended from the checkpoint with one."""

from itertools import pairwise

import pytest
import yaml

from agent.config.files import load_config, save_config
from agent.config.presets import make_config
from run_agent import main
from tests.faults.golden_run import contents, unpack

LAUGHS = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghi"))
HOSTILE = {
    "a billion laughs": (LAUGHS, "found an anchor or an alias"),
    "an anchor": ("task: &x reaching", "found an anchor or an alias"),
    "itself": ("&x {env: *x}", "found an anchor or an alias"),
    "merge keys": ("<<: {seed: 1}", "got no task, expected every setting"),
    "cut short": ("task: reaching\nalgo: aime\npreset: debug\n", "got no size, expected every setting"),
    "deep lists": ("[" * 20_000, "too deeply nested"),
    "deep mappings": ("{a: " * 10_000, "too deeply nested"),
    "many bytes": ("# " + "x" * 70_000, "got more than 65536 bytes"),
    "python": ("task: !!python/object/apply:os.mkdir [trapped]", "could not determine a constructor"),
    "a zero byte": ("task: reaching\0", "special characters are not allowed"),
    "no text": (b"\xff\xfe\x00\xd8", "not readable as YAML"),
    "a number of 5,000 digits": ("seed: " + "9" * 5000, "not readable as YAML"),
    "no such day": ("task: 2026-13-45", "not readable as YAML"),
    "empty": ("", "got None, expected a mapping"),
    "a list": ("[1, 2]", "got a list, expected a mapping"),
    "a key twice": ("seed: 0\nseed: 1", "found a duplicate key"),
    "a number as a key": ("{0: 1}", "0: got a int as a key"),
    "an unknown key": ("behaviour: {}", "the nearest known one is 'behavior'"),
    "a text for a number": ("env_frames: many", "env_frames: got 'many', expected a whole number"),
    "true for a number": ("env_frames: true", "env_frames: got True, expected a whole number"),
    "a fraction": ("env: {num_envs: 1.5}", "env.num_envs: got 1.5, expected a whole number"),
    "a day": ("task: 2026-01-01", "task: got datetime.date(2026, 1, 1), expected a short text"),
    "a list for a text": ("task: [reaching]", "task: got a list, expected a short text"),
    "a text for settings": ("behavior: fast", "behavior: got 'fast', expected a mapping"),
    "not a number": ("optimizer: {model_lr: .nan}", "optimizer.model_lr: got nan, expected a finite number"),
    "infinity": ("behavior: {gamma: .inf}", "behavior.gamma: got inf, expected a finite number"),
    "a long text": ("task: " + "x" * 2000, "expected a short text"),
    "out of range": ("behavior: {gamma: 1.5}", "behavior.gamma: got 1.5, expected (0, 1]"),
    "another choice": ("env: {render: slow}", "env.render: got 'slow', expected one of 'standard', 'fast'"),
    "a crooked schedule": ("losses: {beta: [[0, x]]}", "losses.beta: got a list, expected a finite number or a list"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_without_a_checkpoint_it_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capsys, name):
    text, expected = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    logdir = tmp_path / "run"
    logdir.mkdir()
    (logdir / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = contents(tmp_path)
    assert main(["train", "--logdir", str(logdir)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "config.yaml: " in lines[0]
    assert expected in lines[0]
    assert contents(tmp_path) == before
    assert not (tmp_path / "trapped").exists()


def resumed(capsys, logdir, *options):
    """`train --resume` with no more to do than is done -> exit status, what it printed."""
    status = main(["train", "--logdir", str(logdir), "--resume", *options])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


@pytest.mark.parametrize("text", [None, "", "seed: [", "behaviour: {}"])
def test_beside_a_checkpoint_it_is_mended_with_a_line(tmp_path, capsys, text):
    unpack(tmp_path)
    path, before = tmp_path / "config.yaml", load_config(tmp_path / "config.yaml")
    path.unlink() if text is None else path.write_text(text)
    status, said = resumed(capsys, tmp_path, "--env_frames", "71", "--train.eval_episodes", "1")
    assert status == 0
    assert "the settings are those of the checkpoint" in said
    assert load_config(path).behavior == before.behavior
    assert load_config(path).seed == before.seed


def change(logdir, **settings):
    path = logdir / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))


def test_beside_a_checkpoint_a_key_that_may_not_change_is_refused(tmp_path, capsys):
    unpack(tmp_path)
    change(tmp_path, seed=5, task="counting")
    before = contents(tmp_path)
    status, said = resumed(capsys, tmp_path)
    assert status == 2
    assert "(task: reaching -> counting; seed: 0 -> 5), expected the same; remove the file" in said
    assert contents(tmp_path) == before


def test_beside_a_checkpoint_a_key_that_may_change_is_told(tmp_path, capsys):
    unpack(tmp_path)
    change(tmp_path, threads=1)
    status, said = resumed(capsys, tmp_path)
    assert status == 0
    assert "config.yaml: changed since the checkpoint: threads: 0 -> 1" in said
    assert "all 70 env_frames are spent" in said


def test_every_preset_survives_being_written_and_read(tmp_path):
    for preset in ("debug", "cpu", "gpu", "reference"):
        config = make_config(preset)
        save_config(config, tmp_path / "config.yaml")
        assert load_config(tmp_path / "config.yaml") == config
