"""The table of a sweep: on a terminal it fills in live; elsewhere a line tells every change, and the table ends it."""

from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.sweep.scheduler import Entry, State

_COLUMNS = 4  # that are always there
_FRAME = 6  # lines of the table that are not rows
_COLORS = {"finished": "green", "failed": "red", "running": "cyan"}


class SweepTable:
    """The runs with their states, env_frames and newest evaluations.

    Args:
        entries: the runs; the table shows them as they are when it is drawn.
        console: where to write.
    """

    def __init__(self, entries: Sequence[Entry], console: Console | None = None) -> None:
        self._entries = entries
        self._console = console if console is not None else Console()
        self._live = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._console.print(self.draw(len(self._entries)))

    def show(self) -> None:
        """Redraw the table of a terminal."""
        if self._live is not None:
            self._live.update(self.draw(max(1, self._console.height - _FRAME)), refresh=True)

    def note(self, line: str) -> None:
        """Show a line of text, above the table if there is one."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def draw(self, most: int) -> Table:
        """Return the table with at most `most` rows: if there are more runs, those that run or failed come first."""
        entries = list(self._entries)
        if len(entries) > most:
            order = [State.RUNNING, State.FAILED, State.IN_USE, State.STOPPED, State.FINISHED, State.WAITING]
            entries = sorted(entries, key=lambda entry: order.index(entry.state))[:most]
        table = Table(caption=self._caption(len(entries)), caption_justify="left")
        table.add_column("run", overflow="fold")
        table.add_column("state")
        table.add_column("env_frames", justify="right")
        table.add_column("last evaluation", justify="right")
        if any(entry.why for entry in entries):
            table.add_column("ended early", overflow="fold")
        for entry in entries:
            progress, budget = entry.work.progress, entry.work.budget
            score = "" if progress.eval_return is None else f"{progress.eval_return:.1f} at {progress.evaluated_at:,}"
            state = Text(entry.doing, _COLORS.get(entry.doing, ""))
            why = [Text(entry.why)] * (len(table.columns) > _COLUMNS)
            table.add_row(Text(entry.work.name), state, f"{progress.env_frames:,} of {budget:,}", score, *why)
        return table

    def _caption(self, shown: int) -> str:
        counts = {state: sum(entry.state is state for entry in self._entries) for state in State}
        parts = [f"{count} {state}" for state, count in counts.items() if count]
        hidden = len(self._entries) - shown
        return ", ".join(parts) + (f"; {hidden} not shown" if hidden else "")
