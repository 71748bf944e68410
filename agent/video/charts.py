"""Charts under a video: drawn once for the whole episode, with a cursor for each frame."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from agent.video.picture import FAINT, INK, WHITE, Picture, font, palette

_LEFT, _RIGHT, _LEGEND, _SIZE = 60, 6, 20, 13  # margins, height of the legend and of its letters; pixels
_FINE = 2  # supersampling of the lines
_NAMED = 8  # most components in a legend

Colour = tuple[int, int, int]


class Chart:
    """A chart of a whole episode, time from left to right."""

    def __init__(self, picture: Picture, steps: int) -> None:
        self._picture, self._steps = picture, steps

    def at(self, step: int) -> Picture:
        """Return a copy of the chart with a cursor at row `step`."""
        picture = self._picture.copy()
        left = column(step + 0.5, self._steps, picture.shape[1])
        picture[_LEGEND:, left - 1 : left + 1] = INK
        return picture


def column(step: float, steps: int, width: int) -> int:
    """Return the pixel column of a time in a chart of `width` pixels."""
    return round(_LEFT + step / steps * (width - _LEFT - _RIGHT))


def line_chart(title: str, lines: Mapping[str, NDArray[np.floating]], width: int, height: int) -> Chart:
    """Draw lines [L] over the same rows, one colour each, named in a legend, with gaps where they are nan."""
    steps = len(next(iter(lines.values())))
    finite = np.concatenate([values[np.isfinite(values)] for values in lines.values()])
    low, high = float(finite.min()), float(finite.max())
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    plot = Image.new("RGB", (width * _FINE, (height - _LEGEND) * _FINE), WHITE)
    pen = ImageDraw.Draw(plot)
    top, bottom = 4 * _FINE, plot.height - 4 * _FINE
    for level in (low, high):
        y = bottom + (level - low) / (high - low) * (top - bottom)
        pen.line([(_LEFT * _FINE, y), (plot.width - _RIGHT * _FINE, y)], fill=FAINT)
    colours = [INK, *map(tuple, palette(len(lines)).tolist())]
    for values, colour in zip(lines.values(), colours, strict=False):
        for t in np.flatnonzero(np.isfinite(values[:-1]) & np.isfinite(values[1:])):
            ends = [
                (column(s + 0.5, steps, width) * _FINE, bottom + (values[s] - low) / (high - low) * (top - bottom))
                for s in (t, t + 1)
            ]
            pen.line(ends, fill=colour, width=2 * _FINE)
    canvas = Image.new("RGB", (width, height), WHITE)
    canvas.paste(plot.reduce(_FINE), (0, _LEGEND))
    pen = ImageDraw.Draw(canvas)
    for level, y in ((high, _LEGEND + 4), (low, height - 4)):
        pen.text((_LEFT - 4, y), f"{level:.3g}", fill=INK, font=font(_SIZE - 2), anchor="rm")
    _legend(pen, title, list(zip(lines, colours, strict=False)))
    return Chart(np.asarray(canvas), steps)


def share_chart(title: str, shares: NDArray[np.floating], width: int, height: int) -> Chart:
    """Draw shares [L, K] of K parts that sum to 1 in every row as one stacked column of colours per row.

    The legend names the parts that are most often the largest, with their share of the rows.
    """
    steps, parts = shares.shape
    colours = palette(parts)
    counts = np.bincount(shares.argmax(1), minlength=parts)
    body = height - _LEGEND
    levels = (np.arange(body) + 0.5) / body  # from the top
    rows = (shares.cumsum(1)[:, None] < levels[None, :, None]).sum(-1).clip(max=parts - 1)  # [L, body]
    at = ((np.arange(width) - _LEFT) * steps // max(1, width - _LEFT - _RIGHT)).clip(0, steps - 1)
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[_LEGEND:] = colours[rows[at]].transpose(1, 0, 2)
    canvas[:, :_LEFT], canvas[:, width - _RIGHT :] = 255, 255
    picture = Image.fromarray(canvas)
    named = [k for k in np.argsort(-counts, kind="stable")[:_NAMED] if counts[k] > 0]
    entries = [(f"{k} ({counts[k] / steps:.0%})", tuple(colours[k].tolist())) for k in named]
    _legend(ImageDraw.Draw(picture), title, entries)
    return Chart(np.asarray(picture), steps)


def _legend(pen: ImageDraw.ImageDraw, title: str, entries: Sequence[tuple[str, Colour]]) -> None:
    """Draw a title, then a coloured square and a name for each entry."""
    left, letters = 4.0, font(_SIZE)
    pen.text((left, 2), title, fill=INK, font=letters)
    left += letters.getlength(title) + 14
    for name, colour in entries:
        pen.rectangle([left, 5, left + 9, 14], fill=colour)
        pen.text((left + 14, 2), name, fill=INK, font=letters)
        left += 14 + letters.getlength(name) + 12
