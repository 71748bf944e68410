"""Charts as inline SVG: lines with intervals, points on a diagonal, bars, strips, a graph of transitions.

Colours are classes (page.css gives them for light and dark), except where they stand for a component or a slot.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.video.picture import palette

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 12, 42
MOST_POINTS = 400  # of a line
_names = count()

Values = NDArray[Any]


@dataclass(frozen=True)
class Line:
    """A line of a chart: x and y [P] (nan is a gap), with low and high [P] as a band around it.

    look: classes of page.css: c0 to c5 for colours, grey, dash, thin.
    """

    name: str
    x: Values
    y: Values
    look: str
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True)
class Axes:
    """The scales of a chart in its own pixels: value ranges of x and y."""

    x: tuple[float, float]
    y: tuple[float, float]
    labels: tuple[str, str] = field(default=("", ""))

    def place(self, x: Values, y: Values) -> Values:
        """Return the points [P, 2] in pixels."""
        (x0, x1), (y0, y1) = self.x, self.y
        across = LEFT + (np.asarray(x, float) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (np.asarray(y, float) - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return np.stack([across, down], -1)

    def draw(self) -> str:
        """Return grid lines, ticks and labels."""
        parts = []
        for value in ticks(*self.x):
            [[x, _]] = self.place(np.array([value]), np.array([self.y[0]]))
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(value)}</text>')
        for value in ticks(*self.y):
            [[_, y]] = self.place(np.array([self.x[0]]), np.array([value]))
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
        x_label, y_label = map(escape, self.labels)
        parts.append(f'<text x="{middle[0]}" y="{HEIGHT - 6}" text-anchor="middle">{x_label}</text>')
        turned = f"translate(12 {middle[1]}) rotate(-90)"
        parts.append(f'<text transform="{turned}" text-anchor="middle">{y_label}</text>')
        return "".join(parts)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers in [low, high], `most` at most: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def short(value: float) -> str:
    """Return a number for a tick: 20k, 1.5M, 0.05."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e6 if letter == 'M' else 1e3):.4g}{letter}"
    return f"{value:z.4g}"


def span(*values: Values, zero: bool = False) -> tuple[float, float]:
    """Return the range of all finite values, with a margin; zero: from 0 on where nothing is below it."""
    found = np.concatenate([np.ravel(x) for x in values])
    found = found[np.isfinite(found)]
    low, high = (float(found.min()), float(found.max())) if len(found) else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    is_from_zero = zero and low >= 0
    return (0.0 if is_from_zero else low - margin), high + margin


def path(points: Values) -> str:
    """Return a path through points [P, 2] in pixels; a nan begins a new piece."""
    parts, is_down = [], False
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            is_down = False
            continue
        parts.append(f"{'L' if is_down else 'M'}{x:.1f} {y:.1f}")
        is_down = True
    return "".join(parts)


def svg(title: str, body: str, width: float = WIDTH, height: float = HEIGHT, look: str = "") -> str:
    """Return an image with a title that screen readers say."""
    name = f"t{next(_names)}"
    head = f'<svg class="{look}" viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{name}">'
    return f'{head}<title id="{name}">{escape(title)}</title>{body}</svg>'


def figure(caption: str, drawn: str, legend: str = "", note: str = "") -> str:
    """Return a figure with a caption above, a legend and a note below."""
    below = f'<p class="note">{note}</p>' if note else ""
    return f'<figure class="chart"><figcaption>{caption}</figcaption>{drawn}{legend}{below}</figure>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Return the names of lines beside a stroke of each: (name, look)."""
    stroke = '<svg class="key" viewBox="0 0 24 10" aria-hidden="true"><path class="line {}" d="M1 5H23"/></svg>'
    items = "".join(f"<li>{stroke.format(look)}{escape(name)}</li>" for name, look in entries)
    return f'<ul class="legend">{items}</ul>'


def line_chart(
    title: str, lines: Sequence[Line], labels: tuple[str, str], zero: bool = True, level: float | None = None
) -> str:
    """Draw lines over a common x; level: a horizontal line that means something, such as 0 for a cosine."""
    bounds = [x for line in lines for x in (line.y, line.low, line.high) if x is not None]
    if level is not None:
        bounds.append(np.array([level]))
    x_range = span(*(line.x for line in lines), zero=True)
    x_high = max(float(line.x.max()) for line in lines if len(line.x))
    axes = Axes((x_range[0], x_high), span(*bounds, zero=zero), labels)
    body = axes.draw()
    if level is not None:
        ends = axes.place(np.array([axes.x[0], axes.x[1]]), np.array([level, level]))
        body += f'<path class="level" d="{path(ends)}"/>'
    for line in lines:
        if line.low is not None and line.high is not None:
            edge = np.concatenate([axes.place(line.x, line.low), axes.place(line.x, line.high)[::-1]])
            body += f'<path class="band {line.look}" d="{path(edge)}Z"/>'
    for line in lines:
        kept = np.unique(np.linspace(0, len(line.x) - 1, min(MOST_POINTS, len(line.x))).astype(int))
        drawn = path(axes.place(line.x[kept], line.y[kept]))
        body += f'<path class="line {line.look}" d="{drawn}"><title>{escape(line.name)}</title></path>'
    return figure(escape(title), svg(title, body), legend([(line.name, line.look) for line in lines]))


def calibration_chart(title: str, points: Mapping[str, tuple[Values, Values]], labels: tuple[str, str]) -> str:
    """Draw groups of predictions, name -> (predicted, came), beside the diagonal on which they would be right."""
    both = span(*(x for pair in points.values() for x in pair))
    axes = Axes(both, both, labels)
    ends = axes.place(np.array(both), np.array(both))
    body = axes.draw() + f'<path class="level" d="{path(ends)}"/>'
    for i, (name, (predicted, came)) in enumerate(points.items()):
        placed = axes.place(predicted, came)
        body += f'<path class="line thin c{i}" d="{path(placed)}"/>'
        for (x, y), p, c in zip(placed, predicted, came, strict=True):
            said = f"{name}: predicted {p:.3g}, came {c:.3g}"
            body += f'<circle class="dot c{i}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(said)}</title></circle>'
    entries = [(name, f"c{i}") for i, name in enumerate(points)]
    return figure(escape(title), svg(title, body), legend([*entries, ("as predicted", "level")]))


def bars(title: str, values: Values, labels: tuple[str, str]) -> str:
    """Draw many bars without names, from left to right."""
    axes = Axes((0, len(values)), span(values, zero=True), labels)
    body = axes.draw()
    floor = HEIGHT - BOTTOM
    tops = axes.place(np.arange(len(values)), values)
    width = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    steps = "".join(f"M{x:.2f} {floor}V{y:.1f}h{width:.2f}V{floor}" for x, y in tops)
    return figure(escape(title), svg(title, body + f'<path class="bar c0" d="{steps}"/>'))


def strip(title: str, index: NDArray[np.int64], height: int, look: str = "strip") -> str:
    """Draw which component (or slot) is in charge at every row: one rectangle of its colour per stretch."""
    colours = hexes(int(index.max()) + 1)
    begins = np.flatnonzero(np.r_[True, index[1:] != index[:-1]])
    ends = np.r_[begins[1:], len(index)]
    body = ""
    for begin, end in zip(begins, ends, strict=True):
        number = index[begin]
        place = f'x="{begin}" y="0" width="{end - begin}" height="{height}"'
        body += f'<rect {place} fill="{colours[number]}"><title>component {number}</title></rect>'
    name = f"t{next(_names)}"
    head = f'<svg class="{look}" viewBox="0 0 {len(index)} {height}" preserveAspectRatio="none" role="img"'
    return f'{head} aria-labelledby="{name}"><title id="{name}">{escape(title)}</title>{body}</svg>'


def traces(title: str, lines: Mapping[str, Values], looks: Sequence[str], height: int = 90) -> tuple[str, float, float]:
    """Draw lines over rows, stretched to the width of the player; return them with the lowest and highest value."""
    low, high = span(*lines.values())
    length = len(next(iter(lines.values())))
    body = ""
    for look, values in zip(looks, lines.values(), strict=True):
        down = height - (np.asarray(values, float) - low) / (high - low) * height
        body += f'<path class="line {look}" d="{path(np.stack([np.arange(length) + 0.5, down], -1))}"/>'
    name = f"t{next(_names)}"
    head = f'<svg class="traces" viewBox="0 0 {length} {height}" preserveAspectRatio="none" role="img"'
    return f'{head} aria-labelledby="{name}"><title id="{name}">{escape(title)}</title>{body}</svg>', low, high


def sparkline(title: str, values: Values, low: float, high: float) -> str:
    """Draw a small line; the expected range is shaded."""
    width, height = 120, 28
    bottom, top = span(values, *(np.array([bound]) for bound in (low, high) if math.isfinite(bound)))

    def down(value: float) -> float:
        return height - (min(max(value, bottom), top) - bottom) / (top - bottom) * height

    upper, lower = down(min(high, top)), down(max(low, bottom))
    body = f'<rect class="range" x="0" y="{upper:.1f}" width="{width}" height="{lower - upper:.1f}"/>'
    across = np.linspace(1, width - 1, len(values))
    points = np.stack([across, [down(float(value)) for value in values]], -1)
    return svg(title, f'{body}<path class="line c0" d="{path(points)}"/>', width, height, "spark")


def hexes(number: int) -> list[str]:
    """Return the colours of components or slots."""
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette(number).tolist()]


@dataclass(frozen=True)
class Node:
    """A component in the graph of transitions: its share of the rows, a small picture as a data URI or none."""

    number: int
    share: float
    picture: str


def transition_graph(title: str, nodes: Sequence[Node], shares: Values, least: float) -> str:
    """Draw components in a circle, with an arrow for every way out that takes at least `least` of the switches.

    shares [K, K]: where each component goes when it is left.
    """
    side, radius, size = 440.0, 145.0, 30.0
    angles = 2 * np.pi * np.arange(len(nodes)) / max(1, len(nodes)) - np.pi / 2
    centres = side / 2 + radius * np.stack([np.cos(angles), np.sin(angles)], -1)
    colours = hexes(len(shares))
    arrows, drawn = "", ""
    for i, start in enumerate(nodes):
        for j, end in enumerate(nodes):
            share = float(shares[start.number, end.number])
            if i != j and share >= least:
                said = f"{start.number} to {end.number}: {100 * share:.0f} % of the switches from {start.number}"
                arrows += _arrow(centres[i], centres[j], size, share, colours[start.number], said)
    for node, (x, y) in zip(nodes, centres, strict=True):
        name = f"t{next(_names)}"
        clip = f'<clipPath id="{name}"><circle cx="{x:.1f}" cy="{y:.1f}" r="{size - 2}"/></clipPath>'
        place = f'x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}"'
        image = f'<image {place} href="{node.picture}" clip-path="url(#{name})"/>' if node.picture else ""
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="{size}" stroke="{colours[node.number]}"/>'
        out = (np.array([x, y]) - side / 2) / radius
        anchor = "middle" if abs(out[0]) < 0.3 else "start" if out[0] > 0 else "end"
        at_x, at_y = np.array([x, y]) + (size + 8) * out + (0, 10 * out[1] + 4)
        text = f"{node.number} · {100 * node.share:.0f} %"
        beside = f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}">{text}</text>'
        said = f"<title>component {node.number}: {100 * node.share:.0f} % of the rows</title>"
        drawn += f"<g>{said}{clip}{ring}{image}{beside}</g>"
    return svg(title, arrows + drawn, side, side)


def _arrow(start: Values, end: Values, size: float, share: float, colour: str, said: str) -> str:
    """Draw a bent arrow from one node's rim to another's, as wide as its share."""
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]])
    begin, tip = start + size * along + 5 * across, end - (size + 7) * along + 5 * across
    middle = (begin + tip) / 2 + 16 * across
    width = 1 + 6 * share
    head = [tip + 7 * along, tip + (2 + width) * across, tip - (2 + width) * across]
    curve = "M{:.1f} {:.1f}Q{:.1f} {:.1f} {:.1f} {:.1f}".format(*begin, *middle, *tip)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in head)
    line = f'<path d="{curve}" stroke="{colour}" stroke-width="{width:.1f}"/>'
    return f'<g class="arrow"><title>{escape(said)}</title>{line}<polygon points="{points}" fill="{colour}"/></g>'


def ranges(title: str, rows: Sequence[tuple[str, Values, str]], label: str) -> str:
    """Draw a row for each name: the median of its values as a dot on a line from the 10th to the 90th percentile.

    rows: (name, values, colour); the scale is logarithmic.
    """
    step, left = 24, 60
    height = step * len(rows) + BOTTOM
    most = max((float(values.max()) for _, values, _ in rows if len(values)), default=1.0)
    top = max(1.0, math.log10(most))

    def across(value: float) -> float:
        return left + math.log10(max(1.0, value)) / top * (WIDTH - left - RIGHT)

    body = ""
    for power in range(int(top) + 1):
        for value in (10**power, 2 * 10**power, 5 * 10**power):
            if value <= most:
                x = across(value)
                body += f'<path class="grid" d="M{x:.1f} 0V{height - BOTTOM}"/>'
                body += f'<text x="{x:.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
    for i, (name, values, colour) in enumerate(rows):
        y = step * (i + 0.5)
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)) if len(values) else (np.nan,) * 3
        said = f"{name}: median {middle:g}, 10th to 90th percentile {low:g} to {high:g}, {len(values)} stretches"
        body += f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        if len(values):
            line = f'<path d="M{across(low):.1f} {y}H{across(high):.1f}" stroke="{colour}" stroke-width="4"/>'
            dot = f'<circle cx="{across(middle):.1f}" cy="{y}" r="6" fill="{colour}"/>'
            body += f'<g class="range-row"><title>{escape(said)}</title>{line}{dot}</g>'
    body += f'<text x="{(left + WIDTH - RIGHT) / 2}" y="{height - 6}" text-anchor="middle">{escape(label)}</text>'
    return figure(escape(title), svg(title, body, WIDTH, height))
