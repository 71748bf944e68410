"""Files named by the user: a model or its replay, as a path or an open file. Nothing is unpickled."""

import io
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from agent.run_folder.checkpoint import load_checkpoint, write_checkpoint
from agent.run_folder.contents import check_model
from agent.run_folder.schema import Array, Count, Each, check

File = str | os.PathLike[str] | BinaryIO

_USES = {True: "reading and seeking", False: "writing"}


class Form(NamedTuple):
    """The description of one kind of file."""

    kind: str
    suffix: str  # added to a path without one
    origin: str  # what such a file is, for error lines
    fields: dict[str, Any]


_COUNTS = {"num_timesteps": Count(), "episodes": Count(), "n_envs": Count(1)}
MODEL = Form(
    "agent.sb3.AIME",
    ".zip",
    "a file that AIME.save wrote, or the folder of a run",
    {"config": dict, "agent": dict, "observation_space": dict, "action_space": dict} | _COUNTS,
)
REPLAY = Form(
    "agent.sb3.AIME.replay",
    ".pkl",  # Stable-Baselines3's suffix; the file holds no pickle
    "a file that AIME.save_replay_buffer wrote",
    {"agent_steps": Count(), "episodes": Each(Array(torch.uint8, (None,)))},
)


def write(file: File, form: Form, payload: dict[str, Any]) -> None:
    """Write the fields of a form; a path is written atomically and its folder is created.

    ValueError if `file` is neither a path nor a file open for bytes.
    """
    target = _target(file, is_read=False)
    if isinstance(target, Path) and not target.suffix:
        target = target.with_name(f"{target.name}{form.suffix}")
    write_checkpoint(target, {"kind": form.kind} | payload)


def read(file: File, form: Form, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read and check the fields that `write` was given, on `device`.

    FileNotFoundError if there is no such file, with or without the suffix; a one-line ValueError for any other file.
    """
    target = _target(file, is_read=True)
    if isinstance(target, Path):
        target = _find(target, form)
    payload = load_checkpoint(target, device)
    if payload.get("kind") != form.kind:
        found = "another kind of file" if "kind" in payload else "a checkpoint of a run"
        raise ValueError(f"path: got '{_name(target)}', {found}, expected {form.origin}")
    check(payload, {"kind": str} | form.fields, "payload")
    return payload


def _find(path: Path, form: Form) -> Path:
    """Return the file of this name, with or without the form's suffix; FileNotFoundError if there is none."""
    found = next((p for p in (path, path.with_name(f"{path.name}{form.suffix}")) if p.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"path: got '{path}', expected {form.origin} (no such file)")
    return found


def read_model(file: File, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a file written by AIME.save, whose `config` and `agent` give an agent. Errors as for `read`."""
    payload = read(file, MODEL, device)
    try:
        check_model(payload)
    except ValueError as error:
        raise ValueError(f"path: got '{_name(file)}': {error}") from None
    return payload


def _target(file: Any, is_read: bool) -> Path | BinaryIO:
    """Return a Path or the open file; ValueError for anything else."""
    if isinstance(file, str | os.PathLike):
        return Path(file)
    if not isinstance(file, io.IOBase) or isinstance(file, io.TextIOBase):
        came = "a file opened for text" if isinstance(file, io.IOBase) else repr(file)
        raise ValueError(f"path: got {came}, expected a path or a file opened for bytes")
    if file.closed or not (file.readable() and file.seekable() if is_read else file.writable()):
        raise ValueError(f"path: got {_name(file)!r}, expected a file that is open for {_USES[is_read]}")
    return file  # type: ignore[return-value]


def _name(target: Any) -> Any:
    return target if isinstance(target, str | os.PathLike) else getattr(target, "name", type(target).__name__)
