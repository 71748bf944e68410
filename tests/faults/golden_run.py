"""The golden run of tests/faults/golden, unpacked: a checkpoint of format version 2 and its episodes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from agent.run_folder.checkpoint import checkpoint_paths, load_checkpoint, write_checkpoint

GOLDEN = Path(__file__).resolve().parent / "golden"


def unpack(logdir: Path) -> Path:
    """Make a run's folder -> the path of its only checkpoint."""
    for name in ("checkpoints", "episodes"):
        (logdir / name).mkdir(parents=True)
    shutil.copy(GOLDEN / "config.yaml", logdir)
    for path in GOLDEN.glob("*.ep"):
        shutil.copy(path, logdir / "episodes")
    packed = next(GOLDEN.glob("*.pt.zst"))
    checkpoint = logdir / "checkpoints" / packed.stem
    checkpoint.write_bytes(zstandard.ZstdDecompressor().decompress(packed.read_bytes()))
    return checkpoint


def tamper(logdir: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the payload of a run's only checkpoint, with a right checksum."""
    (path,) = checkpoint_paths(logdir / "checkpoints")
    payload = load_checkpoint(path)
    change(payload)
    write_checkpoint(path, payload)


def contents(logdir: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(logdir)): path.read_bytes() for path in logdir.rglob("*") if path.is_file()}
