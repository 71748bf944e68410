"""Evaluation results as a text table and as a LaTeX row."""

import math
from collections.abc import Mapping, Sequence

from agent.evaluation.episodes import Evaluation
from agent.evaluation.references import Reference, protocol_differences

_WIDTHS = {
    "policy": -13,
    "mean": 9,
    "95 % interval": 20,
    "std": 8,
    "IQM": 9,
    "its 95 % interval": 20,
    "min": 8,
    "max": 8,
}
_PUBLISHED = ("published", "mean", "std", "seeds", "env_frames", "action repeat", "protocol")


def heading() -> str:
    """Return the heading above the `evaluation_line`s."""
    return _fill([*_WIDTHS, "agent_steps"])


def evaluation_line(name: str, result: Evaluation) -> str:
    """Return the results of one policy; std and intervals are empty for a single episode."""
    lengths = sorted({min(result.lengths), max(result.lengths)})
    cells = [name, _number(result.mean), _interval(result.interval_low, result.interval_high), _number(result.std)]
    cells += [_number(result.iqm), _interval(result.iqm_low, result.iqm_high)]
    cells += [_number(result.lowest), _number(result.highest), " to ".join(map(str, lengths))]
    return _fill(cells)


def _fill(cells: Sequence[str]) -> str:
    """Align cells in columns of fixed widths, since lines are printed one by one while policies are played."""
    padded = [
        f"{cell:{'<' if width < 0 else '>'}{abs(width)}}"
        for cell, width in zip(cells[:-1], _WIDTHS.values(), strict=True)
    ]
    return "  ".join([*padded, cells[-1]])


def reference_table(references: Sequence[Reference], action_repeat: int, env_frames: int) -> str:
    """Return one line per published score; `protocol` names the differences from our run."""
    rows = []
    for found in references:
        differs = protocol_differences(found, action_repeat, env_frames)
        std = "" if found.std is None else _number(found.std)
        seeds = "" if found.seeds is None else str(found.seeds)
        numbers = (_number(found.mean), std, seeds, f"{found.env_frames:,}", str(found.action_repeat))
        rows.append((found.name, *numbers, f"other {' and '.join(differs)}" if differs else "as ours"))
    return _align([_PUBLISHED, *rows])


def latex_lines(
    task: str,
    results: Mapping[str, Evaluation],
    references: Sequence[Reference],
    action_repeat: int,
    env_frames: int,
) -> list[str]:
    r"""Return a comment naming the columns, and the row: task & mean [interval] of each policy & published means \\.

    A dagger marks published scores of another protocol. Numbers are whole, or have one decimal if no mean reaches 100.
    """
    names, cells = ["task", *results], [_escape(task)]
    means = [*(result.mean for result in results.values()), *(found.mean for found in references)]
    digits = 0 if max(map(abs, means), default=0.0) >= 100 else 1
    for result in results.values():
        bounds = (result.interval_low, result.interval_high)
        interval = f" [{bounds[0]:z.{digits}f}, {bounds[1]:z.{digits}f}]" if math.isfinite(bounds[0]) else ""
        cells.append(f"{result.mean:z.{digits}f}{interval}")
    for found in references:
        dagger = r"$^\dagger$" if protocol_differences(found, action_repeat, env_frames) else ""
        names.append(f"{found.name} at {found.env_frames:,}, repeat {found.action_repeat}")
        cells.append(f"{found.mean:z.{digits}f}{dagger}")
    return [f"% {' & '.join(names)}", f"{' & '.join(cells)} \\\\"]


def _escape(text: str) -> str:
    return text.replace("_", r"\_").replace("&", r"\&")


def _number(value: float) -> str:
    return f"{value:z.2f}" if math.isfinite(value) else ""


def _interval(low: float, high: float) -> str:
    return f"[{low:z.2f}, {high:z.2f}]" if math.isfinite(low) else ""


def _align(rows: Sequence[Sequence[str]]) -> str:
    """Align cells in columns, two spaces apart: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    return "\n".join(lines)
