"""No screen and no log ends a command: what cannot be shown is left out, and the work is done to its end."""

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import pytest

import run_agent
from agent import Trainer, make_config
from agent.run_folder.checkpoint import load_newest
from agent.run_folder.logger import read_metrics
from agent.training.screen import lasting_screen
from agent.training.verification import unequal_places

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"env.num_envs": 1, "env_frames": 70, "replay.prefill_frames": 52, "train.eval_every": 60}
SETTINGS |= {"train.eval_episodes": 1, "train.video_frames": 0}
KINDS = ("pipe", "terminal", "full", "closed")


def newest(logdir):
    return load_newest(logdir / "checkpoints")[0]


def train(logdir, *options):
    settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
    return run_agent.main(["train", "--preset=debug", "--task=reaching", f"--logdir={logdir}", *settings, *options])


@contextmanager
def lost(kind: str, monkeypatch) -> Iterator[None]:
    """Standard output and error that cannot be written."""
    near, far = {"pipe": os.pipe, "terminal": os.openpty}.get(kind, lambda: (None, None))()
    stream = open("/dev/full" if far is None else far, "w", buffering=1)  # noqa: SIM115  (closing it fails)
    if near is not None:
        os.close(near)
    if kind == "closed":
        stream.close()
    with monkeypatch.context() as patches:
        patches.setattr(sys, "stdout", stream)
        patches.setattr(sys, "stderr", stream)
        yield
    if kind != "closed":
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.close()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    logdir = tmp_path_factory.mktemp("straight") / "run"
    assert train(logdir, "--quiet") == 0
    return logdir


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_without_a_screen_is_the_run_with_one(tmp_path, straight, kind, monkeypatch):
    with lost(kind, monkeypatch):
        assert train(tmp_path / "run") == 0
    assert list(unequal_places(newest(straight), newest(tmp_path / "run"), "checkpoint")) == []


def test_a_run_from_python_needs_no_screen_either(tmp_path, straight, monkeypatch):
    with lost("pipe", monkeypatch):
        trainer = Trainer(make_config("debug", "reaching", SETTINGS), tmp_path / "run")
        trainer.run()
    assert not trainer.has_failed
    assert list(unequal_places(newest(straight), newest(tmp_path / "run"), "checkpoint")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_commands_do_their_work_unseen(tmp_path, straight, kind, monkeypatch):
    figures, curves, video = tmp_path / "figures.json", tmp_path / "curves.png", tmp_path / "episode.gif"
    with lost(kind, monkeypatch):
        assert run_agent.main(["evaluate", f"--logdir={straight}", "--episodes=1", f"--json={figures}"]) == 0
        assert run_agent.main(["plot", str(straight), f"--out={curves}"]) == 0
        assert run_agent.main(["record", f"--logdir={straight}", "--size=32", f"--out={video}"]) == 0
        assert run_agent.main(["evaluate", f"--logdir={tmp_path}"]) == 2  # an error has its status though not its line
    assert all(path.stat().st_size > 0 for path in (figures, curves, video))


@pytest.mark.parametrize(
    ("arguments", "redirection", "status"),
    [
        ("--help", "| true", 0),
        ("--help", "> /dev/full", 0),
        ("train --help", "> /dev/full", 0),
        ("--help", ">&- 2>&-", 0),
        ("trian", "2> /dev/full", 2),
        ("trian", "2>&-", 2),
    ],
)
def test_a_process_ends_quietly(arguments, redirection, status):
    """Whole processes: the interpreter's last flush has no chance to fail."""
    script = f'set -o pipefail; "{sys.executable}" run_agent.py {arguments} {redirection}'
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (status, "", "")


def test_no_file_takes_the_place_of_a_screen_that_was_closed(tmp_path):
    """What libraries print to descriptor 1 must not end in the file that was opened next."""
    script = (
        "import os, run_agent\n"
        "def prepare(command, arguments):\n"
        f"    file = open({str(tmp_path / 'file')!r}, 'w')\n"
        "    os.write(1, b'printed by a library')\n"
        "    return lambda: 0\n"
        "run_agent.prepare = prepare\n"
        "raise SystemExit(run_agent.main(['any']))"
    )
    subprocess.run(["bash", "-c", f'"{sys.executable}" -c "$0" >&-', script], cwd=ROOT, check=True)
    assert (tmp_path / "file").read_text() == ""


CHATTY = """
from gymnasium import register
from envs.reaching import ReachingEnv

class Chatty(ReachingEnv):
    def _advance(self, action):
        print("x" * 10_000)
        return super()._advance(action)

register("Chatty-v0", Chatty, kwargs={"render_mode": "rgb_array"})
"""


@pytest.mark.parametrize("num_envs", [1, 2])
def test_an_environment_that_prints_is_not_lost_with_the_screen(tmp_path, num_envs, monkeypatch):
    """In this process, and in workers of a process whose pipe nobody reads."""
    (tmp_path / "chatty.py").write_text(CHATTY)
    settings = [f"--{name}={value}" for name, value in (SETTINGS | {"env.num_envs": num_envs}).items()]
    command = ["train", "--preset=debug", "--task=gym:chatty:Chatty-v0", f"--logdir={tmp_path / 'run'}", *settings]
    if num_envs == 1:
        monkeypatch.syspath_prepend(tmp_path)
        try:
            with lost("pipe", monkeypatch):
                assert run_agent.main(command) == 0
        finally:
            del sys.modules["chatty"], gymnasium.registry["Chatty-v0"]
    else:
        script = f'set -o pipefail; "{sys.executable}" run_agent.py {" ".join(command)} | true'
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        result = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, check=False)
        assert (result.returncode, result.stderr) == (0, b"")
    rows = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert rows[-1]["env_frames"] >= SETTINGS["env_frames"]
    assert not any("env_restarts" in row for row in rows)


class Disk(io.RawIOBase):
    """Takes what is written while there is room."""

    def __init__(self) -> None:
        self.has_room, self.content = True, b""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        if not self.has_room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.content += bytes(data)
        return len(data)


def test_a_log_goes_on_when_its_disk_has_room_again(monkeypatch):
    disk = Disk()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(disk), write_through=True))
    with lasting_screen():
        for line, has_room in (("one", True), ("two", False), ("three", True)):
            disk.has_room = has_room
            print(line, flush=True)
    assert disk.content.startswith(b"one\n")
    assert disk.content.endswith(b"three\n")


def test_characters_that_a_screen_lacks_are_spelled_out(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii"))
    with lasting_screen():
        print("runs/ü", "α", flush=True)
    assert shown.getvalue() == b"runs/\\xfc \\u03b1\n"


def test_a_hangup_that_nohup_shields_from_changes_nothing(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr("agent.training.trainer.Trainer._show", lambda self: os.kill(os.getpid(), signal.SIGHUP))
    try:
        trainer = Trainer(make_config("debug", "reaching", SETTINGS), tmp_path, quiet=True)
        trainer.run()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (trainer.stop_reason, trainer.env_frames) == ("", SETTINGS["env_frames"])
