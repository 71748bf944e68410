"""The parts of a run that each of several ranks has for itself: a folder, and a part of every checkpoint.

The first rank's are those of a run on one process. `runs/demo/ranks/1` is the folder of the second one, and the list
`ranks` of a checkpoint holds the parts of all but the first.
"""

import io
from pathlib import Path
from typing import Any

import torch

OWN = ("collector", "replay", "means", "random")


def rank_folder(logdir: Path, index: int) -> Path:
    """Return the folder of a rank's episodes, faults and lock."""
    return logdir if index == 0 else logdir / "ranks" / str(index)


def pack_part(payload: dict[str, Any]) -> bytes:
    """Return what a rank's payload does not share with the others' as bytes; pickle knows no uint32 tensors."""
    file = io.BytesIO()
    torch.save({name: payload[name] for name in OWN} | {"generators": payload["agent"]["generators"]}, file)
    return file.getvalue()


def unpack_part(packed: bytes) -> dict[str, Any]:
    """Return the part that `pack_part` was given, on the CPU."""
    return torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)


def num_ranks(payload: dict[str, Any]) -> int:
    """Return the number of ranks of the run that wrote a payload."""
    return 1 + len(payload.get("ranks", ()))


def of_rank(payload: dict[str, Any], index: int) -> dict[str, Any]:
    """Return a payload as one rank reads it."""
    if index == 0:
        return payload
    part = dict(payload["ranks"][index - 1])
    return payload | {"agent": payload["agent"] | {"generators": part.pop("generators")}} | part


def check_num_ranks(payload: dict[str, Any], count: int) -> None:
    """Raise ValueError unless the run of a payload had as many ranks."""
    if num_ranks(payload) != count:
        expected = f"expected {num_ranks(payload)} as before (torchrun --nproc-per-node)"
        raise ValueError(f"ranks: got {count} for a run of {num_ranks(payload)}, {expected}")
