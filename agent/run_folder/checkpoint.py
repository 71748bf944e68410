"""Checkpoints: one checksummed file each, written atomically, read without unpickling anything but plain values.

A file is a header (magic, format version, SHA-256 of the body, length of the body) and a body, what torch.save wrote: a
zip archive without compression. Version 2 holds the run's config and the episodes in flight; 1 did not.
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
_MAX_DEPTH = 30  # of dicts and lists in one another; ours have 7

Check = Callable[[dict[str, Any]], None]  # ValueError, without the file's name, for a payload that is of no use


def save_checkpoint(folder: Path, payload: dict[str, Any], updates: int, keep: int) -> Path:
    """Write `<updates>.pt` into `folder` and remove all but the newest `keep`; a crash leaves the old files whole.

    Files of later updates are removed as well: a run that fell back to an older checkpoint has left that future.
    ValueError as write_checkpoint's.
    """
    path = folder / f"{updates:09d}.pt"
    write_checkpoint(path, payload)
    older = [p for p in checkpoint_paths(folder) if int(p.stem) <= updates]
    for stale in set(checkpoint_paths(folder)) - set(older[-keep:]):
        stale.unlink(missing_ok=True)
    remove_leftovers(folder)
    return path


def write_checkpoint(path: Path | BinaryIO, payload: dict[str, Any]) -> None:
    """Write one file that `load_checkpoint` reads; its folder is made, and an older file stays whole until the end.

    An open file is written from where it is. ValueError where `payload` holds anything but tensors, dicts, lists,
    tuples and plain values (named by its key).
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
    """The checkpoints of a folder, oldest first; empty where there is no such folder. Links are none of them."""
    found = (p for p in folder.glob("*.pt") if p.stem.isascii() and p.stem.isdecimal())
    return sorted((p for p in found if p.is_file() and not p.is_symlink()), key=lambda p: int(p.stem))


def load_checkpoint(path: Path | BinaryIO, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read one checkpoint onto `device`. ValueError in one line: not ours, other version, cut short, damaged.

    An open file is read from its beginning. Nothing is allocated from a declared size before it was held against the
    file's true size.
    """
    if isinstance(path, Path):
        with open(path, "rb") as file:
            return _load(file, path, device)
    return _load(path, getattr(path, "name", type(path).__name__), device)


def _load(file: BinaryIO, path: Any, device: torch.device | str) -> dict[str, Any]:
    """The checkpoint in an open file, whose errors are about `path`."""
    body = _read_body(file, path)
    try:
        _check_archive(body)
        payload = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
        _check_plain(payload, "payload")
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from None
    except Exception:  # whatever torch stumbles over; its own text recommends to switch its guard off
        raise ValueError(f"checkpoint {path}: holds more than tensors and plain values") from None
    if not isinstance(payload, dict):
        raise ValueError(f"checkpoint {path}: holds a {type(payload).__name__}, expected a dict")
    return payload


def _read_body(file: BinaryIO, path: Any) -> bytes:
    """What follows the header, once version, length and checksum are right."""
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
            "nor the episodes in flight, so no run can go on from it"
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
    """ValueError unless the archive's members are what they declare to be: not compressed, all inside the file."""
    try:
        members = zipfile.ZipFile(io.BytesIO(body)).infolist()
    except zipfile.BadZipFile:
        raise ValueError("holds more than tensors and plain values") from None
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"archive: got {member.filename[:60]!r} compressed, expected plain bytes")
    declared = sum(member.file_size for member in members)
    if declared > len(body):
        raise ValueError(f"archive: declares {declared} bytes, expected at most the {len(body)} that it has")


def load_newest(
    folder: Path, device: torch.device | str = "cpu", check: Check | None = None
) -> tuple[dict[str, Any], Path]:
    """The newest checkpoint of a folder that can be read and passes `check`, and its path.

    Bad ones are passed over with a warning. FileNotFoundError where there is none at all, ValueError where all are bad.
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
        except FileNotFoundError:  # removed since it was listed: by a run that goes on meanwhile
            faults.append(f"checkpoint {path}: it is gone")
            continue
        except (ValueError, OSError) as error:
            faults.append(str(error))
            continue
        for fault in faults:
            log.warning("%s; going on from %s", fault, path.name)
        return payload, path
    raise ValueError(f"no good checkpoint among {len(paths)}; the newest: {faults[0]}")


def _check_all(payload: dict[str, Any], path: Path, check: Check) -> None:
    """`check`, and that the file is the one that its name says."""
    try:
        check(payload)
    except ValueError as error:
        raise ValueError(f"checkpoint {path}: {error}") from None
    updates, named = payload["counters"]["updates"], int(path.stem)
    if updates != named:
        raise ValueError(f"checkpoint {path}: counters.updates: got {updates}, expected {named} as in its name")


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Refuse what can not be loaded again, at saving and at loading.

    Exact types, since np.float64 is a float and yet refused; tensors that show the same bytes many times over are, too:
    they would grow when they are copied.
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
