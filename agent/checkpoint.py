"""Checkpoints: one checksummed file each, written atomically, read without unpickling anything but plain values.

A file is a header (magic, format version, SHA-256 of the body, length of the body) and a body, what torch.save wrote.
"""

import hashlib
import io
import logging
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_MAGIC, _VERSION = b"AIMERL", 1
_HEADER = struct.Struct("<6sH32sQ")  # magic, version, SHA-256 and length of the body
_PLAIN = (str, bytes, int, float, bool, type(None))


def save_checkpoint(folder: Path, payload: dict[str, Any], updates: int, keep: int) -> Path:
    """Write `<updates>.pt` into `folder` and remove all but the newest `keep`; a crash leaves the old files whole.

    Files of later updates are removed as well: a run that fell back to an older checkpoint has left that future.
    ValueError where `payload` holds anything but tensors, dicts, lists, tuples and plain values (named by its key).
    """
    _check_plain(payload, "payload")
    body = io.BytesIO()
    torch.save(payload, body)
    content = body.getbuffer()
    header = _HEADER.pack(_MAGIC, _VERSION, hashlib.sha256(content).digest(), len(content))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{updates:09d}.pt"
    partial = folder / f".{path.name}.partial"
    with open(partial, "wb") as file:
        file.write(header)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _sync(folder)
    older = [p for p in checkpoint_paths(folder) if int(p.stem) <= updates]
    for stale in {*checkpoint_paths(folder), *folder.glob(".*.partial")} - set(older[-keep:]):
        stale.unlink(missing_ok=True)
    return path


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first; empty where there is no such folder."""
    return sorted((p for p in folder.glob("*.pt") if p.stem.isdecimal()), key=lambda p: int(p.stem))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read one checkpoint onto `device`. ValueError in one line: not ours, other version, cut short, damaged."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size - _HEADER.size
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise ValueError(f"checkpoint {path}: cut short, or not a checkpoint ({len(header)} bytes)")
        magic, version, digest, length = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise ValueError(f"checkpoint {path}: not a checkpoint of this program")
        if version != _VERSION:
            raise ValueError(f"checkpoint {path}: format version {version}, expected {_VERSION}")
        if length != size:
            fault = "cut short" if size < length else "damaged"
            raise ValueError(f"checkpoint {path}: {fault} ({size} bytes, expected {length})")
        body = file.read()
    if hashlib.sha256(body).digest() != digest:
        raise ValueError(f"checkpoint {path}: damaged (its checksum differs)")
    try:
        payload = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):  # torch's own text recommends to switch its guard off
        raise ValueError(f"checkpoint {path}: holds more than tensors and plain values") from None
    if not isinstance(payload, dict):
        raise ValueError(f"checkpoint {path}: holds a {type(payload).__name__}, expected a dict")
    return payload


def load_newest(folder: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], Path]:
    """The newest checkpoint of a folder that can be read, and its path; bad ones are passed over with a warning.

    FileNotFoundError where there is none at all, ValueError where none is good.
    """
    paths = checkpoint_paths(folder)
    if not paths:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    faults: list[ValueError] = []
    for path in reversed(paths):
        try:
            payload = load_checkpoint(path, device)
        except ValueError as error:
            faults.append(error)
            continue
        for fault in faults:
            log.warning("%s; going on from %s", fault, path.name)
        return payload, path
    raise ValueError(f"no good checkpoint among {len(paths)}; the newest: {faults[0]}")


def _check_plain(value: Any, where: str) -> None:
    """Refuse at saving what could not be loaded again: exact types, since np.float64 is a float and yet refused."""
    if isinstance(value, Tensor) or type(value) in _PLAIN:
        return
    if type(value) in (dict, OrderedDict):
        for key, part in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(part, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, part in enumerate(value):
            _check_plain(part, f"{where}[{index}]")
    else:
        raise ValueError(f"{where}: got {type(value).__name__}, expected tensors, dicts, lists or plain values")


def _sync(folder: Path) -> None:
    """Make the renaming itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
