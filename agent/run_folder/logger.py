"""The log of a run: metrics.jsonl and progress.csv in its folder, and mirrors."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from agent.run_folder.mirror import Mirror
from envs.video import GIF_FPS, is_in_gif
from replay.writing import naming, write_whole


class Logger:
    """The writer of a run's metrics.

    metrics.jsonl is the primary log: one flat object per line, counters first, null for numbers that are not finite.
    progress.csv is made from it at every `flush`. Mirrors, such as TensorBoard, get what is logged after `attach`.

    Args:
        logdir: the run's folder.
        updates, env_frames: counters of the checkpoint that the run resumes from; later lines of a killed run are
            dropped. With neither, the run is new and all older lines are dropped.
    """

    def __init__(self, logdir: Path, updates: int | None = None, env_frames: int | None = None) -> None:
        logdir.mkdir(parents=True, exist_ok=True)
        self._jsonl, self._csv = logdir / "metrics.jsonl", logdir / "progress.csv"
        is_new = updates is None and env_frames is None
        limits = {"updates": updates, "env_frames": env_frames}
        kept = [] if is_new else [row for row in read_metrics(self._jsonl) if _is_within(row, limits)]
        write_whole(self._jsonl, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._step = max((row["env_frames"] for row in kept), default=-1)
        self._file = open(self._jsonl, "a", buffering=1, encoding="utf-8")  # noqa: SIM115  (open for the run's whole life)
        self._mirrors: list[Mirror] = []

    def attach(self, *mirrors: Mirror) -> None:
        """Log to `mirrors` too, from now on until the end; they should raise nothing."""
        for mirror in mirrors:
            mirror.begin(self._step)
        self._mirrors += mirrors

    def detach(self) -> list[Mirror]:
        """Stop logging to the mirrors, and return them."""
        mirrors, self._mirrors = self._mirrors, []
        return mirrors

    def write(self, counters: Mapping[str, float], metrics: Mapping[str, float | Tensor]) -> None:
        """Append a line: `counters` (env_frames, agent_steps, updates, wall_seconds), then the metrics."""
        values = {name: float(value) for name, value in metrics.items()}
        self._step = int(counters["env_frames"])
        row = dict(counters) | {name: value if math.isfinite(value) else None for name, value in values.items()}
        with naming(self._jsonl):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for mirror in self._mirrors:
            mirror.write(counters, finite)

    def video(self, tag: str, frames: NDArray[np.uint8], fps: float) -> None:
        """Show frames uint8 [T, H, W, 3] in the mirrors, as a GIF at the env_frames of the last line."""
        file = io.BytesIO()
        frames = np.stack([frame for index, frame in enumerate(frames) if is_in_gif(index, fps)])
        starts = np.rint(100 * np.arange(len(frames) + 1) / min(fps, GIF_FPS))  # a gif's delays are whole 1/100 s
        delays = (10 * np.diff(starts)).astype(int).tolist()
        imageio.imwrite(file, frames, extension=".gif", plugin="pillow", duration=delays, loop=0)
        for mirror in self._mirrors:
            mirror.video(tag, file.getvalue(), max(0, self._step))

    def note(self, line: str) -> None:
        """Write a line of text to the mirrors, at the env_frames of the last line of metrics."""
        for mirror in self._mirrors:
            mirror.note(line, max(0, self._step))

    def flush(self) -> None:
        """Bring progress.csv and the mirrors up to date."""
        columns = list(dict.fromkeys(name for row in read_metrics(self._jsonl) for name in row))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(read_metrics(self._jsonl))
        write_whole(self._csv, table.getvalue().encode())
        for mirror in self._mirrors:
            mirror.flush()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        if self._file.closed:
            return
        with ExitStack() as closing:  # closes each of them even if another fails
            for mirror in self._mirrors:
                closing.callback(mirror.close)
            closing.callback(self.flush)
            closing.callback(self._file.close)


class NoLogger:
    """The logger of a rank that leaves logging to the first one."""

    def attach(self, *mirrors: Mirror) -> None:
        """Do nothing."""

    def detach(self) -> list[Mirror]:
        """Return no mirrors."""
        return []

    def write(self, counters: Mapping[str, float], metrics: Mapping[str, float | Tensor]) -> None:
        """Do nothing."""

    def video(self, tag: str, frames: NDArray[np.uint8], fps: float) -> None:
        """Do nothing."""

    def note(self, line: str) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a metrics.jsonl (none if there is no file), skipping incomplete and invalid ones."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        yield from parse_rows(file)


def parse_rows(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects in lines of a metrics.jsonl, skipping incomplete and invalid ones."""
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and _is_row(row):
            yield row


def _is_row(row: Mapping[str, Any]) -> bool:
    """Return whether names are printable, values numbers or None, and counters whole numbers."""
    counters = [row.get("env_frames"), row.get("updates", 0)]
    return (
        all(type(count) is int and 0 <= count < 2**63 for count in counters)
        and all(value is None or type(value) in (int, float) for value in row.values())
        and all(name.isprintable() for name in row)
    )


def _is_within(row: Mapping[str, Any], limits: Mapping[str, int | None]) -> bool:
    return all(limit is None or row.get(name, 0) <= limit for name, limit in limits.items())
