"""Writing files: whole or not at all, with errors of the disk that say which file it was."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of the block (a full disk tells no name) gets the name of the file that was being written."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` one after the other into a file that is, whatever happens, the one of before or all of the new one.

    It is written under another name, synced, then renamed, so it lasts when this returns. An OSError names `path`; a
    process that is killed may leave the other name behind (`remove_leftovers`).
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
        with suppress(OSError):  # a full disk is not kept full by what does not fit
            partial.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; none may be writing there."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make the renaming itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
