"""The file of one episode: magic, version, header length, JSON header, zstd payload, checksum.

    8 bytes   magic
    u16, u32  format version, header length (little endian)
    header    JSON: length, fields [[name, dtype, shape], ...] in payload order, raw_bytes, payload_bytes, metadata
    payload   one zstd frame: the fields' bytes, back to back
    32 bytes  BLAKE2b of everything before it

Declared sizes are compared with the file's true size, and the checksum is verified, before anything is allocated.
"""

import hashlib
import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from replay.rows import DTYPES, Episode

MAGIC = b"\x89AIMEep\n"
VERSION = 1
PREFIX = struct.Struct("<8sHI")
DIGEST_BYTES = 32
MAX_HEADER_BYTES = 1 << 20
MAX_RAW_BYTES = 1 << 34
# a zstd block holds at most 128 KiB and takes at least 4 bytes, so no valid frame expands further
MAX_EXPANSION = 1 << 15
FIELD_ORDER = ("reward", "action", "is_first", "is_last", "is_terminal", "image")  # four-byte fields first: aligned
NO_FRAME = [0, 0, 3]  # the shape of a row's frame where observations are vectors alone
FIELD_ORDERS = (FIELD_ORDER, ("vector", *FIELD_ORDER))  # without and with vectors


def encode(episode: Episode, metadata: dict[str, Any]) -> bytes:
    """Return the bytes of the file of an episode with JSON-serialisable metadata."""
    order = FIELD_ORDERS[episode.vector is not None]
    arrays = {name: np.ascontiguousarray(getattr(episode, name)) for name in order}
    raw_bytes = sum(array.nbytes for array in arrays.values())
    compressor = zstandard.ZstdCompressor(level=1).compressobj(size=raw_bytes)
    pieces = [compressor.compress(array.reshape(-1).view(np.uint8).data) for array in arrays.values()]
    payload = b"".join([*pieces, compressor.flush()])
    header = {
        "length": len(episode.reward),
        "fields": [[name, str(array.dtype), list(array.shape)] for name, array in arrays.items()],
        "raw_bytes": raw_bytes,
        "payload_bytes": len(payload),
        "metadata": metadata,
    }
    text = json.dumps(header).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"metadata: got {len(text)} bytes of JSON, expected at most {MAX_HEADER_BYTES}")
    body = PREFIX.pack(MAGIC, VERSION, len(text)) + text + payload
    return body + _digest(body)


def decode(data: bytes, max_raw_bytes: int = MAX_RAW_BYTES) -> tuple[Episode, dict[str, Any]]:
    """Return the episode, in new arrays, and the metadata from the bytes of a file.

    A one-line ValueError if they are damaged, or if the arrays would take more than `max_raw_bytes`.
    """
    header, start = _read_header(data)
    fields, raw_bytes = _check_header(header, len(data) - start - DIGEST_BYTES)
    if raw_bytes > max_raw_bytes:
        raise ValueError(f"header: declares {raw_bytes} raw bytes, expected at most {max_raw_bytes}")
    payload = memoryview(data)[start : len(data) - DIGEST_BYTES]
    raw = np.empty(raw_bytes, np.uint8)
    try:
        if zstandard.get_frame_parameters(payload).content_size != raw_bytes:
            raise ValueError("payload: its size differs from the header's")
        with zstandard.ZstdDecompressor().stream_reader(payload) as reader:
            if _read_into(reader, raw) != raw_bytes:
                raise ValueError("payload: it is shorter than the header says")
    except zstandard.ZstdError as error:
        raise ValueError(f"payload: {error}") from error
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    for name, shape in fields.items():
        stop = offset + prod(shape) * DTYPES[name].itemsize
        arrays[name] = raw[offset:stop].view(DTYPES[name]).reshape(shape)
        offset = stop
    return Episode(**arrays), header["metadata"]


def _read_into(reader: zstandard.ZstdDecompressionReader, raw: np.ndarray) -> int:
    view, count = raw.data, 0
    while count < len(view):
        got = reader.readinto(view[count:])
        if got == 0:
            break
        count += got
    return count


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """Check magic, version, checksum and JSON; return the header and the offset of the payload."""
    if len(data) < PREFIX.size + DIGEST_BYTES:
        raise ValueError(f"file: got {len(data)} bytes, expected at least {PREFIX.size + DIGEST_BYTES}")
    magic, version, header_bytes = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("magic: got something else, expected an episode file")
    if version != VERSION:
        raise ValueError(f"version: got {version}, expected {VERSION}")
    start = PREFIX.size + header_bytes
    if header_bytes > MAX_HEADER_BYTES or start + DIGEST_BYTES > len(data):
        raise ValueError(f"header: got {header_bytes} declared bytes, but the file has {len(data)}")
    if _digest(memoryview(data)[:-DIGEST_BYTES]) != data[-DIGEST_BYTES:]:
        raise ValueError("checksum: does not match the contents")
    try:
        header = json.loads(data[PREFIX.size : start])
    except (ValueError, RecursionError) as error:
        raise ValueError("header: it is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("metadata"), dict):
        raise ValueError("header: got no metadata, expected a JSON object with it")
    return header, start


def _check_header(header: dict[str, Any], payload_bytes: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """Check a header against the real payload; return the shape of every field in payload order, and the raw bytes."""
    fields, length = header.get("fields"), header.get("length")
    triples = [f for f in fields if isinstance(f, list) and len(f) == 3] if isinstance(fields, list) else []
    if not _is_size(length) or tuple(field[0] for field in triples) not in FIELD_ORDERS:
        raise ValueError(f"header: got other fields, expected {', '.join(FIELD_ORDER)}, perhaps after vector")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, dtype, shape in triples:
        rank = {"image": 4, "action": 2, "vector": 2}.get(name, 1)
        if dtype != str(DTYPES[name]) or not isinstance(shape, list) or len(shape) != rank:
            raise ValueError(f"header: {name}: got {dtype} {shape}, expected {DTYPES[name]} of rank {rank}")
        sizes = shape[:1] if name == "image" and shape[1:] == NO_FRAME else shape
        if not all(map(_is_size, sizes)) or shape[0] != length:
            raise ValueError(f"header: {name}: got shape {shape}, expected sizes above 0, {length} first")
        shapes[name] = tuple(shape)
    raw_bytes = sum(prod(shape) * DTYPES[name].itemsize for name, shape in shapes.items())
    if header.get("payload_bytes") != payload_bytes:
        raise ValueError(f"header: payload: got {header.get('payload_bytes')} bytes, the file has {payload_bytes}")
    if header.get("raw_bytes") != raw_bytes or raw_bytes > min(MAX_RAW_BYTES, MAX_EXPANSION * payload_bytes):
        raise ValueError(f"header: declares {raw_bytes} raw bytes, more than a payload of {payload_bytes} can hold")
    return shapes, raw_bytes


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def read(path: Path, max_raw_bytes: int = MAX_RAW_BYTES) -> tuple[Episode, dict[str, Any]]:
    """Read a file's episode and metadata; a one-line ValueError with the path if it is damaged or too large."""
    most = max_raw_bytes + max_raw_bytes // 64 + 2 * MAX_HEADER_BYTES  # incompressible pixels grow a little
    try:
        if path.is_symlink() or not path.is_file():
            path.lstat()  # FileNotFoundError if nothing exists
            raise ValueError("file: got a link or a folder, expected a file")
        size = path.stat().st_size
        if size > most:
            raise ValueError(f"file: got {size} bytes, expected at most {most}")
        return decode(path.read_bytes(), max_raw_bytes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def digest_of(path: Path) -> bytes:
    """Read the checksum at the end of an episode file without verifying it; ValueError if the file is too short."""
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < DIGEST_BYTES:
            raise ValueError(f"{path}: file: got {file.tell()} bytes, expected at least {DIGEST_BYTES}")
        file.seek(-DIGEST_BYTES, 2)
        return file.read()
