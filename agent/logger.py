"""What a run tells: metrics.jsonl, progress.csv and TensorBoard in its folder, one line or a bar on the screen."""

import csv
import io
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

_WINDOW_SECONDS = 120.0  # what speeds and the time left are estimated over


class Logger:
    """Writes the metrics of a run into its folder.

    metrics.jsonl is the record: one flat object a line, counters first, null for numbers that are not finite.
    progress.csv is made from it at every `flush`; TensorBoard gets the same numbers over env_frames.

    Args:
        logdir: the run's folder.
        updates, env_frames: counters of the checkpoint that the run goes on from; what a killed run had written
            beyond them is dropped. With neither, the run is new and older lines go.
    """

    def __init__(self, logdir: Path, updates: int | None = None, env_frames: int | None = None) -> None:
        logdir.mkdir(parents=True, exist_ok=True)
        self._jsonl, self._csv = logdir / "metrics.jsonl", logdir / "progress.csv"
        is_new = updates is None and env_frames is None
        limits = {"updates": updates, "env_frames": env_frames}
        kept = [] if is_new else [row for row in read_metrics(self._jsonl) if _is_within(row, limits)]
        _replace(self._jsonl, "".join(json.dumps(row) + "\n" for row in kept))
        self._step = max((row["env_frames"] for row in kept), default=-1)
        self._file = open(self._jsonl, "a", buffering=1)  # noqa: SIM115  (open for the run's whole life)
        self._board = SummaryWriter(str(logdir / "tensorboard"), purge_step=self._step + 1)

    def write(self, counters: Mapping[str, float], metrics: Mapping[str, float | Tensor]) -> None:
        """Append a line: `counters` (env_frames, agent_steps, updates, wall_seconds), then that moment's metrics."""
        values = {name: float(value) for name, value in metrics.items()}
        self._step = int(counters["env_frames"])
        row = dict(counters) | {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        for name, value in values.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, self._step)

    def video(self, tag: str, frames: NDArray[np.uint8], fps: float) -> None:
        """Show frames uint8 [T, H, W, 3] in TensorBoard, at the env_frames of the last line."""
        file = io.BytesIO()
        imageio.imwrite(file, frames, extension=".gif", plugin="pillow", duration=1000 / fps, loop=0)
        _, height, width, _ = frames.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
        # SummaryWriter.add_video would need moviepy; an animated image summary plays just as well.
        writer = self._board.file_writer
        assert writer is not None
        writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), max(0, self._step))

    def note(self, line: str) -> None:
        """Keep a line of text in TensorBoard, under "health", at the env_frames of the last line of metrics."""
        self._board.add_text("health", line, max(0, self._step))

    def flush(self) -> None:
        """Bring progress.csv and TensorBoard up to date."""
        columns = list(dict.fromkeys(name for row in read_metrics(self._jsonl) for name in row))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows(read_metrics(self._jsonl))
        _replace(self._csv, table.getvalue())
        self._board.flush()

    def close(self) -> None:
        """Flush and close; a second call does nothing."""
        if not self._file.closed:
            self._file.close()
            self.flush()
            self._board.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics.jsonl, none where there is no file; one that was cut by a crash is left out."""
    if not path.is_file():
        return
    with open(path, errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "env_frames" in row:
                yield row


def _is_within(row: Mapping[str, Any], limits: Mapping[str, int | None]) -> bool:
    return all(limit is None or row.get(name, 0) <= limit for name, limit in limits.items())


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, newline="")
    os.replace(partial, path)


class Display:
    """Progress on the screen: a bar on a terminal, one plain line every `interval` seconds elsewhere, nothing if quiet.

    Args:
        total_env_frames: the run's budget.
        quiet: show nothing.
        interval: seconds between plain lines.
        console, clock: where to write, and the time in seconds.
    """

    def __init__(
        self,
        total_env_frames: int,
        quiet: bool = False,
        interval: float = 30.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._quiet, self._clock = total_env_frames, quiet, clock
        self._console = console if console is not None else Console()
        self._progress = None
        if self._console.is_terminal and not quiet:
            columns = (TextColumn("{task.percentage:>3.0f} %"), BarColumn(None), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=self._console, refresh_per_second=4, expand=True)
            self._task = self._progress.add_task("starting", total=total_env_frames)
        self._interval = 0.25 if self._progress is not None else interval
        self._next = -math.inf
        self._marks: deque[tuple[float, int, int]] = deque()  # (seconds, env_frames, updates)
        self._latest: tuple[int, int, Mapping[str, float]] | None = None
        self._line = ""

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._latest is not None:
            self._show(*self._latest)
        if self._progress is not None:
            self._progress.stop()

    def update(self, env_frames: int, updates: int, recent: Mapping[str, float]) -> None:
        """Show where the run is; cheap enough for every step.

        `recent` may hold train_return, eval_return, and update_share: the share of wall-clock time spent in updates.
        """
        if self._quiet:
            return
        self._latest = (env_frames, updates, recent)
        if self._clock() >= self._next:
            self._show(*self._latest)

    def note(self, line: str) -> None:
        """Show a line of text, above the bar where there is one; nothing if quiet."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show(self, env_frames: int, updates: int, recent: Mapping[str, float]) -> None:
        now = self._clock()
        self._next = now + self._interval
        self._marks.append((now, env_frames, updates))
        while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW_SECONDS:
            self._marks.popleft()
        line = self._describe(env_frames, updates, recent)
        if self._progress is not None:
            self._progress.update(self._task, completed=min(env_frames, self._total), description=line)
        elif len(self._marks) > 1 and line != self._line:
            self._console.print(line, highlight=False, soft_wrap=True)
        self._line = line

    def _describe(self, env_frames: int, updates: int, recent: Mapping[str, float]) -> str:
        (then, frames_then, updates_then), (now, *_) = self._marks[0], self._marks[-1]
        seconds = max(1e-9, now - then)
        parts = [f"{env_frames:,}/{self._total:,} env_frames", f"{updates:,} updates"]
        if updates > updates_then:
            parts[-1] += f" ({(updates - updates_then) / seconds:.1f}/s)"
        for name, label in (("train_return", "return"), ("eval_return", "eval")):
            if name in recent:
                parts.append(f"{label} {recent[name]:.1f}")
        if env_frames > frames_then:
            left = seconds * max(0, self._total - env_frames) / (env_frames - frames_then)
            parts.append(f"ETA {_duration(left)}")
        if "update_share" in recent:
            parts.append("update-bound" if recent["update_share"] > 0.5 else "env-bound")
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
