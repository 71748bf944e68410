"""Progress of a run on the screen: a bar on a terminal, plain lines elsewhere."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_WINDOW_SECONDS = 120.0  # over which speeds and the remaining time are estimated


class Display:
    """A progress bar on a terminal, one plain line every `interval` seconds elsewhere, nothing if quiet.

    Args:
        total_env_frames: the run's budget.
        quiet: show nothing.
        interval: seconds between plain lines.
        console, clock: where to write, and the time in seconds.
        offline_updates: those that the run makes before its first env_frame.
    """

    def __init__(
        self,
        total_env_frames: int,
        quiet: bool = False,
        interval: float = 30.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        offline_updates: int = 0,
    ) -> None:
        self._total, self._quiet, self._clock = total_env_frames, quiet, clock
        self._offline_updates = offline_updates
        self._console = console if console is not None else Console()
        self._next = -math.inf
        self._marks: deque[tuple[float, int, int]] = deque()  # (seconds, env_frames, updates)
        self._latest: tuple[int, int, Mapping[str, float]] | None = None
        self._line, self._activity = "starting", ""
        self._live = None
        if self._console.is_terminal and not quiet:
            self._live = Live(console=self._console, refresh_per_second=4, get_renderable=self._picture)
        self._interval = 0.25 if self._live is not None else interval

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._latest is not None:
            self._show(*self._latest)
        self._activity = ""
        if self._live is not None:
            self._live.stop()

    def update(self, env_frames: int, updates: int, recent: Mapping[str, float]) -> None:
        """Show the progress; cheap enough for every step.

        `recent` may hold train_return, eval_return, and update_share: the updates' share of the time that updates
        and collecting take together.
        """
        if self._quiet:
            return
        self._latest, self._activity = (env_frames, updates, recent), ""
        if self._marks and self._phase(*self._marks[-1][1:]) != self._phase(env_frames, updates):
            # the speed of one phase says nothing about the next
            self._marks = deque([(self._clock(), env_frames, updates)])
        if self._clock() >= self._next:
            self._show(*self._latest)

    def busy(self, activity: str) -> None:
        """Show a long activity, such as "evaluating", beside the bar until the next `update`."""
        self._activity = activity
        if self._live is not None:
            self._live.refresh()

    def note(self, line: str) -> None:
        """Show a line of text, above the bar if there is one; nothing if quiet."""
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show(self, env_frames: int, updates: int, recent: Mapping[str, float]) -> None:
        now = self._clock()
        self._next = now + self._interval
        self._marks.append((now, env_frames, updates))
        while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW_SECONDS:
            self._marks.popleft()
        line = self._describe(env_frames, updates, recent)
        if self._live is None and len(self._marks) > 1 and line != self._line:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._line = line

    def _picture(self) -> Group:
        """Return the bar and the line below it, which a narrow terminal wraps."""
        env_frames, updates = self._latest[:2] if self._latest is not None else (0, 0)
        is_offline = self._phase(env_frames, updates) == "offline"
        total = self._offline_updates if is_offline else self._total
        done = min(updates if is_offline else env_frames, total)
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column()
        bar.add_column(ratio=1)
        bar.add_row(f"{100 * done // total:>3} %", ProgressBar(total, done))
        return Group(bar, Text("  ".join(filter(None, (self._line, self._activity)))))

    def _phase(self, env_frames: int, updates: int) -> str:
        """Return the phase of a run: "offline", "prefill" or "play"."""
        if env_frames == 0 and self._offline_updates > 0:
            return "offline"
        return "play" if updates > 0 else "prefill"

    def _describe(self, env_frames: int, updates: int, recent: Mapping[str, float]) -> str:
        (then, frames_then, updates_then), (now, *_) = self._marks[0], self._marks[-1]
        seconds, phase = max(1e-9, now - then), self._phase(env_frames, updates)
        parts = [f"{env_frames:,}/{self._total:,} env_frames", f"{updates:,} updates"]
        if phase == "offline":
            parts = [f"offline {updates:,}/{self._offline_updates:,} updates"]
        if updates > updates_then:
            parts[-1] += f" ({(updates - updates_then) / seconds:.1f}/s)"
        for name, label in (("train_return", "return"), ("eval_return", "eval")):
            if name in recent:
                parts.append(f"{label} {recent[name]:.1f}")
        if phase == "offline":
            if updates_then < updates < self._offline_updates:
                left = seconds * (self._offline_updates - updates) / (updates - updates_then)
                parts.append(f"ETA {_duration(left)}")
            return "  ".join(parts)
        if phase == "prefill":
            parts.append("prefill")
        elif frames_then < env_frames < self._total:
            left = seconds * max(0, self._total - env_frames) / (env_frames - frames_then)
            parts.append(f"ETA {_duration(left)}")
        if "update_share" in recent:
            parts.append("update-bound" if recent["update_share"] > 0.5 else "env-bound")
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
