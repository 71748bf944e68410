"""Pieces of HTML: pictures and videos as data URIs, tables, sections."""

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from agent.report.episode import Video
from agent.video.picture import Picture

DASH = "–"


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as a URI that needs no network."""
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"


def picture_uri(picture: Picture, quality: int | None = None) -> str:
    """Return a picture [H, W, 3] as a PNG, or with a `quality` as a JPEG."""
    file = io.BytesIO()
    if quality is None:
        Image.fromarray(picture).save(file, "PNG", optimize=True)
        return data_uri(file.getvalue(), "image/png")
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return data_uri(file.getvalue(), "image/jpeg")


def image(picture: Picture, text: str, quality: int | None = None, look: str = "") -> str:
    """Return a picture with a text in its place for those who do not see it."""
    height, width, _ = picture.shape
    size = f'width="{width}" height="{height}"'
    return f'<img class="{look}" {size} src="{picture_uri(picture, quality)}" alt="{escape(text)}">'


def video(found: Video, text: str) -> str:
    """Return a video that plays in the page; a gif is a moving picture without controls."""
    if found.suffix != ".mp4":
        return f'<img src="{data_uri(found.data, "image/gif")}" alt="{escape(text)}">'
    source = data_uri(found.data, "video/mp4")
    return f'<video controls loop muted playsinline src="{source}" aria-label="{escape(text)}"></video>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], look: str = "") -> str:
    """Return a table of cells that are HTML already; the first cell of a row names it."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = ""
    for first, *others in rows:
        cells = "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in others)
        body += f'<tr><th scope="row">{first}</th>{cells}</tr>'
    return f'<div class="scroll"><table class="{look}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def section(name: str, title: str, verdict: str, *parts: str) -> str:
    """Return a section; the verdict is its finding in a sentence or two."""
    return f'<section id="{name}"><h2>{title}</h2><p class="verdict">{verdict}</p>{"".join(parts)}</section>'


def grid(*parts: str) -> str:
    """Return parts side by side where there is room."""
    return f'<div class="grid">{"".join(parts)}</div>'


def details(summary: str, content: str) -> str:
    """Return content that opens on demand."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def number(value: float, form: str = ".3g") -> str:
    """Return a number, or a dash for nan."""
    return f"{value:z{form}}" if np.isfinite(value) else DASH


def percent(share: float, form: str = ".0f") -> str:
    """Return a share as "28 %"."""
    return f"{100 * share:z{form}}\u202f%"


def interval(value: float, low: float, high: float, form: str = ".3g") -> str:
    """Return "507 [465, 545]", without the interval where there is none."""
    bounds = f" [{low:z{form}}, {high:z{form}}]" if np.isfinite(low) and np.isfinite(high) else ""
    return f"{value:z{form}}{bounds}"


def duration(hours: float) -> str:
    """Return "98 min" or "3.2 h"."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
