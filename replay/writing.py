"""Atomic writing of files, and disk errors that name the file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError of the block: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` into a file atomically: whatever happens, it is the previous file or the complete new one.

    The parts are written under another name, synced, then renamed, so they are durable when this returns. An OSError
    names `path`; a killed process may leave the other name behind (`remove_leftovers`).
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with naming(path):
            with open(partial, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            _sync(path.parent)
    except BaseException:
        with suppress(OSError):  # free the space of the incomplete file
            partial.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove the incomplete files of killed writers from a folder, in which no writer may be active."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make the renaming durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
