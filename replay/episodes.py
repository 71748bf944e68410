"""Episodes at rest: a folder with one checksummed, compressed file each."""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from replay import episode_file
from replay.rows import Episode, check_episode

NAME = re.compile(r"(\d{8,})-(\d+)\.ep(\.damaged)?")
logger = logging.getLogger(__name__)


def episode_number(path: Path) -> int:
    """The number of an episode file, from its name `<number>-<length>.ep`."""
    return _parse(path)[0]


def episode_length(path: Path) -> int:
    """The number of rows of an episode file, from its name."""
    return _parse(path)[1]


class EpisodeStore:
    """Episodes as files `00000012-501.ep` (number, rows) in one folder; numbers only grow, so names sort by age.

    A file is complete or absent: it is written under another name, synced, then renamed. One writer at a time.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.damaged: list[Path] = []  # files that `load_all` has set aside
        self._next = self._unused_number()

    def __len__(self) -> int:
        return len(self.paths())

    @property
    def num_bytes(self) -> int:
        """Bytes of all episode files."""
        return sum(path.stat().st_size for path in self.paths())

    def paths(self) -> list[Path]:
        """Episode files, oldest first."""
        found = [path for path in self.folder.iterdir() if path.suffix == ".ep" and NAME.fullmatch(path.name)]
        return sorted(found, key=episode_number)

    def append(self, episode: Episode, metadata: dict[str, Any] | None = None) -> Path:
        """Write one episode (and JSON-able metadata) -> its path. Raises ValueError if it is not one whole episode."""
        check_episode(episode)
        data = episode_file.encode(episode, metadata if metadata is not None else {})
        path = self.folder / f"{self._next:08d}-{len(episode.reward)}.ep"
        # a crash leaves this name behind, and the next append under the same number overwrites it
        partial = self.folder / f"{self._next:08d}.tmp"
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)
        self._next += 1
        return path

    def load(self, path: Path) -> Episode:
        """File -> Episode, bit for bit what was appended; ValueError in one line where it is damaged."""
        return self._read(path)[0]

    def load_metadata(self, path: Path) -> dict[str, Any]:
        """The metadata that was given to `append`; ValueError in one line where the file is damaged."""
        return self._read(path)[1]

    def load_all(self, paths: Iterable[Path] | None = None) -> Iterator[Episode]:
        """The episodes of `paths` (all of them by default, oldest first), one at a time.

        A damaged file is renamed to *.damaged, logged, noted in `damaged`, and passed over.
        """
        for path in self.paths() if paths is None else paths:
            try:
                episode = self.load(path)
            except ValueError as error:
                aside = path.with_name(path.name + ".damaged")
                path.rename(aside)
                self.damaged.append(aside)
                logger.warning("set aside a damaged episode: %s", error)
                continue
            yield episode

    def remove_oldest(self, count: int = 1) -> list[Path]:
        """Delete the `count` oldest episodes -> their paths."""
        return _delete(self.paths()[:count])

    def remove_newer(self, number: int) -> list[Path]:
        """Delete the episodes above `number` -> their paths: what a run wrote after the checkpoint it resumes from."""
        removed = _delete([path for path in self.paths() if episode_number(path) > number])
        self._next = self._unused_number()
        return removed

    def prune(self, max_rows: int) -> list[Path]:
        """Delete the oldest episodes that a ring of `max_rows` rows no longer holds any of; the deleted paths."""
        kept, rows = 0, 0
        paths = self.paths()
        for path in reversed(paths):
            if rows >= max_rows:
                break
            rows += episode_length(path)
            kept += 1
        return self.remove_oldest(len(paths) - kept)

    def _unused_number(self) -> int:
        """One above every number in the folder, damaged files included."""
        taken = [int(match[1]) for path in self.folder.iterdir() if (match := NAME.fullmatch(path.name))]
        return max(taken, default=-1) + 1

    def _read(self, path: Path) -> tuple[Episode, dict[str, Any]]:
        episode, metadata = episode_file.read(path)
        length, expected = len(episode.reward), episode_length(path)
        if length != expected:
            raise ValueError(f"{path}: holds {length} rows, expected {expected} as in its name")
        try:
            check_episode(episode)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return episode, metadata


def _parse(path: Path) -> tuple[int, int]:
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"path: came as {path.name}, expected a name like 00000012-501.ep")
    return int(match[1]), int(match[2])


def _delete(paths: list[Path]) -> list[Path]:
    for path in paths:
        path.unlink()
    return paths


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
