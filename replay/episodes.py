"""EpisodeStore: a folder with one checksummed, compressed file per episode."""

import contextlib
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from replay import episode_file
from replay.entries import Entry
from replay.rows import Episode, check_episode
from replay.writing import remove_leftovers, write_whole

NAME = re.compile(r"([0-9]{8,15})-([1-9][0-9]{0,11})\.ep(\.damaged)?")
logger = logging.getLogger(__name__)


def episode_number(path: Path) -> int:
    """Return the number of an episode file, from its name `<number>-<length>.ep`."""
    return _parse(path)[0]


def episode_length(path: Path) -> int:
    """Return the number of rows of an episode file, from its name."""
    return _parse(path)[1]


def episode_paths(folder: Path) -> list[Path]:
    """Return the episode files of a folder, oldest first, without links and folders of such names."""
    with os.scandir(folder) as found:
        names = [entry.name for entry in found if entry.name.endswith(".ep") and entry.is_file(follow_symlinks=False)]
    return sorted((folder / name for name in names if NAME.fullmatch(name)), key=_parse)


class EpisodeStore:
    """A folder of episodes as files `00000012-501.ep` (number, rows); numbers only grow, so names sort by age.

    Files are written atomically, by one writer at a time. `num_checkpoints` is the number of checkpoints that the run
    keeps, for `prune`.
    """

    def __init__(self, folder: Path | str, num_checkpoints: int = 1) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.damaged: list[Path] = []  # quarantined files
        self.needed: deque[int] = deque(maxlen=num_checkpoints)  # oldest episode of each kept checkpoint
        self._next = self._unused_number()

    def __len__(self) -> int:
        return len(self.paths())

    @property
    def num_bytes(self) -> int:
        """The bytes of all episode files."""
        return sum(path.stat().st_size for path in self.paths())

    def paths(self) -> list[Path]:
        """Return the episode files, oldest first."""
        return episode_paths(self.folder)

    def append(self, episode: Episode, metadata: dict[str, Any] | None = None) -> Path:
        """Write an episode with JSON-serialisable metadata and return its path. ValueError if it is incomplete."""
        check_episode(episode)
        data = episode_file.encode(episode, metadata if metadata is not None else {})
        path = self.folder / f"{self._next:08d}-{len(episode.reward)}.ep"
        write_whole(path, data)
        self._next += 1
        return path

    def load(self, path: Path) -> Episode:
        """Return an episode, bit for bit as it was appended; a one-line ValueError if the file is damaged."""
        return read_episode(path)[0]

    def load_metadata(self, path: Path) -> dict[str, Any]:
        """Return the metadata that `append` was given; a one-line ValueError if the file is damaged."""
        return read_episode(path)[1]

    def load_all(self, paths: Iterable[Path] | None = None) -> Iterator[Episode]:
        """Yield the episodes of `paths` (default: all, oldest first), one at a time.

        A damaged file is quarantined: renamed to *.damaged, logged, listed in `damaged`, and skipped.
        """
        for path in self.paths() if paths is None else paths:
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                episode = self._load_or_quarantine(path)
                if episode is not None:
                    yield episode

    def entries(self) -> list[Entry]:
        """Return the entries of all episode files, oldest first, without reading their rows."""
        return [self.entry(path) for path in self.paths() if path.stat().st_size >= episode_file.DIGEST_BYTES]

    def entry(self, path: Path) -> Entry:
        """Return the entry of one episode file, without reading its rows."""
        return Entry(*_parse(path), episode_file.digest_of(path))

    def load_known(
        self, entries: Sequence[Entry], row_bytes: int, check: Callable[[Episode], None]
    ) -> Iterator[tuple[Entry, Episode]]:
        """Yield the episodes of `entries`, one at a time, each the one that its entry describes and passing `check`.

        Files that do not match are quarantined as `load_all` does, and so are unknown files whose number lies among
        those of the entries; missing ones are logged. Rows of more than `row_bytes` are not read.
        """
        if entries:
            self._quarantine_unknown(entries)
        missing: list[Entry] = []
        for entry in entries:
            try:
                episode = self._load_or_quarantine(self.folder / entry.name, entry, row_bytes * entry.length, check)
            except FileNotFoundError:
                missing.append(entry)
                continue
            if episode is not None:
                yield entry, episode
        if missing:
            rows = sum(entry.length for entry in missing)
            text = "%d episodes (%d rows) are missing in %s, the first is %s; the run continues without them"
            logger.warning(text, len(missing), rows, self.folder, missing[0].name)

    def _quarantine_unknown(self, entries: Sequence[Entry]) -> None:
        known = {entry.name for entry in entries}
        for path in list(self.folder.iterdir()):
            match = NAME.fullmatch(path.name)
            is_unknown = match and not match[3] and path.name not in known
            if match and is_unknown and entries[0].number <= int(match[1]) <= entries[-1].number:
                self._quarantine(path, f"{path}: it does not belong to this run")

    def _load_or_quarantine(
        self,
        path: Path,
        entry: Entry | None = None,
        max_raw_bytes: int = episode_file.MAX_RAW_BYTES,
        check: Callable[[Episode], None] | None = None,
    ) -> Episode | None:
        try:
            episode = read_episode(path, max_raw_bytes)[0]
            if entry is not None and episode_file.digest_of(path) != entry.digest:
                raise ValueError(f"{path}: it is not the episode that the checkpoint lists")
            if check is not None:
                _check_named(path, check, episode)
        except FileNotFoundError:
            raise
        except (ValueError, OSError) as error:
            self._quarantine(path, str(error))
            return None
        return episode

    def _quarantine(self, path: Path, reason: str) -> None:
        quarantined = path.with_name(path.name + ".damaged")
        try:
            path.rename(quarantined)
        except OSError as error:  # such as a folder of that name
            logger.warning("skipped a damaged episode: %s (%s)", reason, error.strerror)
            return
        self.damaged.append(quarantined)
        logger.warning("quarantined a damaged episode: %s", reason)

    def remove_oldest(self, count: int = 1) -> list[Path]:
        """Delete the `count` oldest episodes and return their paths."""
        return _delete(self.paths()[:count])

    def remove_newer(self, number: int) -> list[Path]:
        """Delete the episodes above `number`, written after the checkpoint that a run resumes from; return their paths.

        Incomplete files of a killed run are deleted as well.
        """
        removed = _delete([path for path in self.paths() if episode_number(path) > number])
        remove_leftovers(self.folder)
        self._next = self._unused_number()
        return removed

    def prune(self, max_rows: int, needed: int | None = None) -> list[Path]:
        """Delete the oldest episodes that a ring of `max_rows` rows no longer needs; return their paths.

        `needed`: the oldest episode of the newest checkpoint. Episodes of the other kept checkpoints stay as well.
        """
        if needed is not None:
            self.needed.append(needed)
        kept, rows = 0, 0
        paths = self.paths()
        for path in reversed(paths):
            if rows >= max_rows:
                break
            rows += episode_length(path)
            kept += 1
        stale = paths[: len(paths) - kept]
        return _delete([path for path in stale if episode_number(path) < min(self.needed, default=self._next)])

    def _unused_number(self) -> int:
        """Return a number above all in the folder, including damaged files."""
        taken = [int(match[1]) for path in self.folder.iterdir() if (match := NAME.fullmatch(path.name))]
        return max(taken, default=-1) + 1


def read_episode(path: Path, max_raw_bytes: int = episode_file.MAX_RAW_BYTES) -> tuple[Episode, dict[str, Any]]:
    """Return the rows and the metadata of an episode's file; a one-line ValueError if it is damaged."""
    episode, metadata = episode_file.read(path, max_raw_bytes)
    length, expected = len(episode.reward), episode_length(path)
    if length != expected:
        raise ValueError(f"{path}: got {length} rows, expected {expected} as in its name")
    _check_named(path, check_episode, episode)
    return episode, metadata


def _check_named(path: Path, check: Callable[[Episode], None], episode: Episode) -> None:
    """Run `check`, adding the file's name to its ValueError."""
    try:
        check(episode)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(path: Path) -> tuple[int, int]:
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"path: got {path.name}, expected a name like 00000012-501.ep")
    return int(match[1]), int(match[2])


def _delete(paths: list[Path]) -> list[Path]:
    for path in paths:
        path.unlink(missing_ok=True)
    return paths
