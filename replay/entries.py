"""The entries of a checkpoint for episodes on disk, without their rows, and the rows of unfinished episodes."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from replay import episode_file
from replay.episode_file import DIGEST_BYTES
from replay.rows import Episode, Shapes, bytes_of, check_rows


class Entry(NamedTuple):
    """One episode file: its number, its number of rows, and the checksum at its end."""

    number: int
    length: int
    digest: bytes

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.number:08d}-{self.length}.ep"


def pack_entries(entries: Iterable[Entry]) -> dict[str, Tensor]:
    """Return n entries as tensors for a checkpoint: number and length int64 [n], digest uint8 [n, 32]."""
    kept = list(entries)
    digests = np.frombuffer(b"".join(entry.digest for entry in kept), np.uint8).reshape(len(kept), DIGEST_BYTES)
    numbers, lengths = ([entry[i] for entry in kept] for i in (0, 1))
    return {
        "number": torch.tensor(numbers, dtype=torch.int64),
        "length": torch.tensor(lengths, dtype=torch.int64),
        "digest": torch.from_numpy(digests.copy()),
    }


def unpack_entries(packed: dict[str, Tensor]) -> list[Entry]:
    """Return the entries that `pack_entries` was given."""
    digests = (row.tobytes() for row in packed["digest"].numpy())
    return [Entry(*entry) for entry in zip(packed["number"].tolist(), packed["length"].tolist(), digests, strict=True)]


def pack_rows(rows: Episode) -> Tensor:
    """Return rows [L, ...] of a running episode as the bytes of an episode file, uint8; empty for no rows."""
    data = bytearray(episode_file.encode(rows, {})) if len(rows.reward) else bytearray()
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def unpack_rows(packed: Tensor, max_raw_bytes: int = episode_file.MAX_RAW_BYTES) -> Episode | None:
    """Return the rows that `pack_rows` was given, None for no rows. A one-line ValueError for invalid bytes."""
    return episode_file.decode(packed.numpy().tobytes(), max_raw_bytes)[0] if len(packed) else None


def check_unfinished(packed: Tensor, max_rows: int, shapes: Shapes) -> None:
    """Raise ValueError unless these bytes are the beginning of an episode with at most `max_rows` rows."""
    rows = unpack_rows(packed, max_rows * bytes_of(shapes))
    if rows is None:
        return
    check_rows(rows, "rows", len(rows.reward), shapes)
    if not rows.is_first[0] or rows.is_first[1:].any() or rows.is_last.any():
        raise ValueError("rows: got other flags, expected the beginning of one episode")
