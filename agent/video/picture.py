"""Pictures uint8 [H, W, 3]: put side by side, captioned, and with attention over them."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
WHITE, INK, FAINT = (255, 255, 255), (20, 20, 20), (150, 150, 150)
# Okabe and Ito's colours, which the colour-blind can tell apart
_OKABE_ITO = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
_OPACITY = 0.5  # of a slot's colour where its map is highest


def palette(count: int) -> Picture:
    """Colours [count, 3]: seven that differ well, then the same ones darker and darker."""
    base = np.array(_OKABE_ITO, float)
    index = np.arange(count)
    return (base[index % len(base)] * 0.6 ** (index // len(base))[:, None]).astype(np.uint8)


@cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own typeface, `size` pixels high."""
    return ImageFont.load_default(size)


def enlarge(picture: Picture, zoom: int) -> Picture:
    """Every pixel becomes zoom x zoom pixels: nothing is smoothed."""
    return picture.repeat(zoom, axis=0).repeat(zoom, axis=1)


def darken(picture: Picture, rows: int | None = None) -> Picture:
    """A third of the brightness, for the uppermost `rows` (None: all)."""
    return np.concatenate([picture[:rows] // 3, picture[len(picture[:rows]) :]])


def stack(rows: Sequence[Picture]) -> Picture:
    """Pictures under one another, narrower ones filled up with white."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)


def tile(pictures: Sequence[Picture], columns: int, gap: int = 4) -> Picture:
    """Pictures of one size in rows of `columns`, `gap` white pixels apart."""
    height, width, _ = pictures[0].shape
    rows = math.ceil(len(pictures) / columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


class Caption:
    """A white band of fixed size with a text for each field; fields that do not fit beside each other wrap.

    Args:
        width: of the band, pixels.
        widest: the longest text expected in each field; it keeps its place whatever is written into it.
        size: height of the letters, pixels.
    """

    def __init__(self, width: int, widest: Sequence[str], size: int = 14) -> None:
        self._font = font(size)
        self._places: list[tuple[int, int]] = []
        left, top, line = 4, 2, size + size // 3
        for text in widest:
            needed = math.ceil(self._font.getlength(text))
            if left > 4 and left + needed > width:
                left, top = 4, top + line
            self._places.append((left, top))
            left += needed + size
        self._shape = (top + line, width, 3)

    def draw(self, *texts: str) -> Picture:
        """The band [H, width, 3] with a text for each field."""
        picture = Image.fromarray(np.full(self._shape, 255, np.uint8))
        pen = ImageDraw.Draw(picture)
        for place, text in zip(self._places, texts, strict=True):
            pen.text(place, text, fill=INK, font=self._font)
        return np.asarray(picture)


def overlay(picture: Picture, maps: NDArray[np.floating]) -> Picture:
    """Attention maps [S, h, w] over a picture, a colour of `palette` a slot, brightest where a map is highest.

    The picture is shown in grey, so that every colour is a slot's.
    """
    height, width, _ = picture.shape
    strength = maps / maps.max((1, 2), keepdims=True)  # [S, h, w]
    owned = np.einsum("shw,sc->hwc", strength**2, palette(len(maps)).astype(float))
    colour = owned / (strength**2).sum(0)[..., None]
    small = np.concatenate([colour, 255 * strength.max(0)[..., None]], -1).astype(np.uint8)  # [h, w, RGBA]
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR), float)
    opacity = _OPACITY * smooth[..., 3:] / 255
    grey = picture.mean(-1, keepdims=True)
    return ((1 - opacity) * grey + opacity * smooth[..., :3]).astype(np.uint8)
