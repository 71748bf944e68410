"""Checkpoints: checksummed files, written atomically, read without unpickling anything but plain values.

A file is a header (magic, format version, SHA-256 of the body, length of the body) and a body written by torch.save: an
uncompressed zip archive. Version 2 holds the run's config and the episodes in progress; version 1 did not.
"""

import hashlib
import io
import logging
import os
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from replay.writing import remove_leftovers, write_whole

log = logging.getLogger(__name__)

_MAGIC, _VERSION = b"AIMERL", 2
_HEADER = struct.Struct("<6sH32sQ")  # magic, version, SHA-256 and length of the body
_PLAIN = (str, int, float, bool, type(None))
_MAX_DEPTH = 30  # of nested dicts and lists; ours have 7 levels

Check = Callable[[dict[str, Any]], None]  # raises ValueError, without the file's name, for an unusable payload


def save_checkpoint(folder: Path, payload: dict[str, Any], updates: int, keep: int) -> Path:
    """Write `<updates>.pt` into `folder` and remove all but the newest `keep`; a crash leaves the old files intact.

    Files of later updates are removed as well: a run that went back to an older checkpoint has abandoned them.
    ValueError as for write_checkpoint.
    """
    path = folder / f"{updates:09d}.pt"
    write_checkpoint(path, payload)
    older = [p for p in checkpoint_paths(folder) if int(p.stem) <= updates]
    for stale in set(checkpoint_paths(folder)) - set(older[-keep:]):
        stale.unlink(missing_ok=True)
    remove_leftovers(folder)
    return path


def write_checkpoint(path: Path | BinaryIO, payload: dict[str, Any]) -> None:
    """Write a file for `load_checkpoint` atomically, creating its folder.

    An open file is written from its current position. ValueError, naming the key, if `payload` holds anything but
    tensors, dicts, lists, tuples and plain values.
    """
    _check_plain(payload, "payload")
    body = io.BytesIO()
    torch.save(payload, body)
    content = body.getbuffer()
    header = _HEADER.pack(_MAGIC, _VERSION, hashlib.sha256(content).digest(), len(content))
    if not isinstance(path, Path):
        path.write(header)
        path.write(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, header, content)


def checkpoint_paths(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest first; empty if there is no such folder. Links do not count."""
    found = (p for p in folder.glob("*.pt") if p.stem.isascii() and p.stem.isdecimal())
    return sorted((p for p in found if p.is_file() and not p.is_symlink()), key=lambda p: int(p.stem))


def load_checkpoint(path: Path | BinaryIO, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint onto `device`. A one-line ValueError if it is foreign, damaged or of another version.

    An open file is read from its beginning. Declared sizes are compared with the file's true size before anything is
    allocated.
    """
    if isinstance(path, Path):
        with open(path, "rb") as file:
            return _load(file, path, device)
    return _load(path, getattr(path, "name", type(path).__name__), device)


def _load(file: BinaryIO, path: Any, device: torch.device | str) -> dict[str, Any]:
    """Read the checkpoint in an open file; errors name `path`."""
    body = _read_body(file, path)
    try:
        _check_archive(body)
        payload = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
        _check_plain(payload, "payload")
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from None
    except Exception:  # any error of torch, whose own message suggests to disable weights_only
        raise ValueError(f"checkpoint {path}: holds more than tensors and plain values") from None
    if not isinstance(payload, dict):
        raise ValueError(f"checkpoint {path}: holds a {type(payload).__name__}, expected a dict")
    return payload


def _read_body(file: BinaryIO, path: Any) -> bytes:
    """Return the body after checking version, length and checksum."""
    size = file.seek(0, os.SEEK_END) - _HEADER.size
    file.seek(0)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise ValueError(f"checkpoint {path}: cut short, or not a checkpoint ({len(header)} bytes)")
    magic, version, digest, length = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise ValueError(f"checkpoint {path}: not a checkpoint of this program")
    if version == 1:
        raise ValueError(
            f"checkpoint {path}: format version 1, expected {_VERSION}: version 1 holds neither the run's config "
            "nor the episodes in progress, so no run can resume from it"
        )
    if version != _VERSION:
        raise ValueError(f"checkpoint {path}: format version {version}, expected {_VERSION}")
    if length != size:
        fault = "cut short" if size < length else "damaged"
        raise ValueError(f"checkpoint {path}: {fault} ({size} bytes, expected {length})")
    body = file.read()
    if hashlib.sha256(body).digest() != digest:
        raise ValueError(f"checkpoint {path}: damaged (its checksum differs)")
    return body


def _check_archive(body: bytes) -> None:
    """Raise ValueError unless the archive's members are uncompressed and fit inside the file."""
    try:
        members = zipfile.ZipFile(io.BytesIO(body)).infolist()
    except zipfile.BadZipFile:
        raise ValueError("holds more than tensors and plain values") from None
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"archive: got {member.filename[:60]!r} compressed, expected plain bytes")
    declared = sum(member.file_size for member in members)
    if declared > len(body):
        raise ValueError(f"archive: got {declared} declared bytes, expected at most the {len(body)} of the file")


def load_newest(
    folder: Path, device: torch.device | str = "cpu", check: Check | None = None
) -> tuple[dict[str, Any], Path]:
    """Return the newest checkpoint of a folder that can be read and passes `check`, and its path.

    Bad ones are skipped with a warning. FileNotFoundError if there is no checkpoint, ValueError if all are bad.
    """
    paths = checkpoint_paths(folder)
    if not paths:
        raise FileNotFoundError(f"no checkpoint in {folder}")
    faults: list[str] = []
    for path in reversed(paths):
        try:
            payload = load_checkpoint(path, device)
            if check is not None:
                _check_all(payload, path, check)
        except FileNotFoundError:  # removed since it was listed, by a run in progress
            faults.append(f"checkpoint {path}: no longer exists")
            continue
        except (ValueError, OSError) as error:
            faults.append(str(error))
            continue
        for fault in faults:
            log.warning("%s; continuing from %s", fault, path.name)
        return payload, path
    raise ValueError(f"no good checkpoint among {len(paths)}; the newest: {faults[0]}")


def _check_all(payload: dict[str, Any], path: Path, check: Check) -> None:
    """Run `check`, and check that the payload matches the file's name."""
    try:
        check(payload)
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from None
    updates, named = payload["counters"]["updates"], int(path.stem)
    if updates != named:
        raise ValueError(f"checkpoint {path}: counters.updates: got {updates}, expected {named} as in its name")


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Raise ValueError, at saving and at loading, for values that a checkpoint may not hold.

    Types are compared exactly: np.float64 is a float, but refused. Tensors that repeat the same bytes (expanded views)
    are refused too, because they would grow when copied.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes():
            raise ValueError(f"{where}: got a tensor {list(value.shape)} over fewer bytes, expected a dense one")
    elif type(value) in _PLAIN:
        return
    elif depth == _MAX_DEPTH:
        raise ValueError(f"{where[:80]}...: nested more than {_MAX_DEPTH} deep, expected less")
    elif type(value) in (dict, OrderedDict):
        for key, part in value.items():
            _check_plain(key, f"a key of {where}", depth + 1)
            _check_plain(part, f"{where}[{key!r}]", depth + 1)
    elif type(value) in (list, tuple):
        for index, part in enumerate(value):
            _check_plain(part, f"{where}[{index}]", depth + 1)
    else:
        raise ValueError(f"{where}: got {type(value).__name__}, expected tensors, dicts, lists or plain values")
