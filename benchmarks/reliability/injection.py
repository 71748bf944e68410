"""Faults to order, each a context manager around a run in this process: numbers, disks, environments, processes."""

import builtins
import errno
import io
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch

from agent.evaluation import episodes as evaluation
from agent.learning.actor_critic import Critic
from agent.learning.agent import Agent
from agent.learning.policies import Gaussian
from envs.reaching import ReachingEnv
from world_model import DPGMMVariationalRecurrentAutoencoder
from world_model.loss_groups import GROUPS, terms

MODEL_LOSSES = tuple(terms(GROUPS))
LOSSES = (*MODEL_LOSSES, "actor_loss", "critic_loss")
NAN = float("nan")


@contextmanager
def nan_in_loss(name: str, calls: range) -> Iterator[list[int]]:
    """The loss is not a number at the updates in `calls`, counted from 1; yields those of them that came."""
    places: dict[str, tuple[type, str]] = {"actor_loss": (Gaussian, "entropy"), "critic_loss": (Critic, "nll")}
    owner, method = places.get(name, (DPGMMVariationalRecurrentAutoencoder, "forward"))
    found: list[int] = []

    def spoil(count: int, result: Any) -> Any:
        if count not in calls or (name not in places and name not in result.losses):
            return result
        found.append(count)
        if name in places:
            return result * NAN
        return result._replace(losses=result.losses | {name: result.losses[name] * NAN})

    with after_call(owner, method, spoil):
        yield found


@contextmanager
def nan_in_weights(place: str, update: int) -> Iterator[None]:
    """One weight of the agent's "model" or "actor_critic" is not a number any more after an update."""

    def spoil(count: int, result: Any, agent: Agent) -> Any:
        if count == update:
            with torch.no_grad():
                next(getattr(agent, place).parameters()).view(-1)[0] = NAN
        return result

    with after_call(Agent, "update", spoil):
        yield


@contextmanager
def failing_env(fault: str, steps: range) -> Iterator[None]:
    """`reaching` raises, or pays "nan", at those of its steps, counted from 1 over all episodes of this process."""

    def spoil(count: int, result: Any) -> Any:
        if count not in steps:
            return result
        if fault == "nan":
            return NAN, *result[1:]
        raise FloatingPointError("injected")

    with after_call(ReachingEnv, "_advance", spoil):
        yield


@contextmanager
def failing_evaluation(method: str, since: int) -> Iterator[None]:
    """Environments of evaluations raise in `method` ("make": they cannot be made), from the `since`-th (from 1) on."""
    count, real = 0, evaluation.make_env

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("injected:\nonly one instance may exist")

    def make(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count >= since and method == "make":
            fail()
        env = real(*arguments, **options)
        if count >= since:
            setattr(env, method, fail)
        return env

    with patch.object(evaluation, "make_env", make):
        yield


@contextmanager
def lost_screen(kind: str, seconds: float) -> Iterator[None]:
    """The output of this process goes into a "pipe" or onto a "terminal" that is gone after so many seconds, or onto a
    disk that is "full".
    """
    near, far = {"pipe": os.pipe, "terminal": os.openpty, "full": lambda: (-1, os.open("/dev/full", os.O_WRONLY))}[
        kind
    ]()
    for descriptor in (1, 2):
        os.dup2(far, descriptor)
    os.close(far)

    def read() -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([near], [], [], left)[0]:
                os.read(near, 2**16)
        os.close(near)

    if near >= 0:
        threading.Thread(target=read, daemon=True).start()
    yield


# What an ffmpeg lacks -> what it does instead of encoding; tiny files are those that it is tried with.
_FFMPEGS = {
    "missing": None,
    "no libx264": 'case "$*" in *libx264*) echo "Unknown encoder" >&2; exit 1;; esac; exec "{real}" "$@"',
    "killed": 'case "$*" in *64x64*) exec "{real}" "$@";; esac; head -c 60000 > /dev/null; kill -9 $$',
}
ENCODER_FAULTS = tuple(_FFMPEGS)


@contextmanager
def lost_encoder(fault: str) -> Iterator[None]:
    """The ffmpeg of this process is "missing", has "no libx264", or is "killed" in the middle of a video."""
    from imageio_ffmpeg import get_ffmpeg_exe

    with TemporaryDirectory() as folder:
        path, script = Path(folder) / "ffmpeg", _FFMPEGS[fault]
        if script is not None:
            path.write_text("#!/bin/sh\n" + script.format(real=get_ffmpeg_exe()) + "\n", encoding="utf-8")
            path.chmod(0o755)
        with patch.dict(os.environ, IMAGEIO_FFMPEG_EXE=str(path)):
            yield


@contextmanager
def full_disk(folder: Path, write: int, number: int = errno.ENOSPC) -> Iterator[list[Path]]:
    """Every write into files below `folder` fails from the `write`-th (from 1) on; yields the files of all writes."""
    written: list[Path] = []
    real = builtins.open

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        inner = real(file, mode, *arguments, **options)
        path = Path(os.fsdecode(file)) if not isinstance(file, int) else Path()
        is_ours = path.is_relative_to(folder) and set(mode) & set("wax+")
        return _Counted(inner, path) if is_ours else inner

    class _Counted:
        def __init__(self, file: Any, path: Path) -> None:
            self._file, self._path = file, path

        def write(self, data: Any) -> Any:
            written.append(self._path)
            if len(written) >= write:
                raise OSError(number, os.strerror(number))
            return self._file.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __iter__(self) -> Any:
            return iter(self._file)

    with patch.object(builtins, "open", opened), patch.object(io, "open", opened):
        yield written


@contextmanager
def killed_inside_write(step: int) -> Iterator[None]:
    """This process kills itself at the `step`-th (from 1) sync or renaming of a file; a file to be synced is cut."""
    count = 0
    real = {name: getattr(os, name) for name in ("fsync", "replace")}

    def deadly(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                if name == "fsync" and os.fstat(arguments[0]).st_size > 0 and step % 2:
                    _cut(arguments[0])
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*arguments)

        return call

    with ExitStack() as patches:
        for name in real:
            patches.enter_context(patch.object(os, name, deadly(name)))
        yield


def _cut(descriptor: int) -> None:
    """Half of a file, as if the rest had not reached the disk; nothing for a folder."""
    with suppress(OSError):
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)


@contextmanager
def after_call(owner: type, method: str, change: Callable[..., Any]) -> Iterator[None]:
    """Replace a method's results by change(number of the call from 1, result[, self where it takes three])."""
    real, count = getattr(owner, method), 0
    takes_self = change.__code__.co_argcount == 3

    def changed(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        result = real(self, *arguments, **options)
        return change(count, result, self) if takes_self else change(count, result)

    with patch.object(owner, method, changed):
        yield
