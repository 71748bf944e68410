"""Pictures uint8 [H, W, 3]: tiling, captions, and attention overlays."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
WHITE, INK, FAINT = (255, 255, 255), (20, 20, 20), (150, 150, 150)
# Okabe and Ito's palette, distinguishable for the colour-blind, with grey in place of black
_OKABE_ITO = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (150, 150, 150),
)
_OPACITY = 0.5  # of a slot's colour at the maximum of its map


def palette(count: int) -> Picture:
    """Return colours [count, 3]: eight distinct ones, then the same ones darker and darker."""
    base = np.array(_OKABE_ITO, float)
    index = np.arange(count)
    return (base[index % len(base)] * 0.6 ** (index // len(base))[:, None]).astype(np.uint8)


@cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return Pillow's default font, `size` pixels high."""
    return ImageFont.load_default(size)


def enlarge(picture: Picture, zoom: int) -> Picture:
    """Repeat every pixel zoom x zoom times, without smoothing."""
    return picture.repeat(zoom, axis=0).repeat(zoom, axis=1)


def darken(picture: Picture, rows: int | None = None) -> Picture:
    """Reduce the uppermost `rows` (None: all) to a third of their brightness."""
    return np.concatenate([picture[:rows] // 3, picture[len(picture[:rows]) :]])


def stack(rows: Sequence[Picture]) -> Picture:
    """Stack pictures vertically, padding narrower ones with white."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)


def tile(pictures: Sequence[Picture], columns: int, gap: int = 4) -> Picture:
    """Arrange pictures of one size in rows of `columns`, `gap` white pixels apart."""
    height, width, _ = pictures[0].shape
    rows = math.ceil(len(pictures) / columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


class Caption:
    """A white band of fixed size with one text per field; fields that do not fit into a line wrap.

    Args:
        width: width of the band, pixels.
        widest: the longest text expected in each field, which reserves its space.
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
        """Return the band [H, width, 3] with one text per field."""
        picture = Image.fromarray(np.full(self._shape, 255, np.uint8))
        pen = ImageDraw.Draw(picture)
        for place, text in zip(self._places, texts, strict=True):
            pen.text(place, text, fill=INK, font=self._font)
        return np.asarray(picture)


def overlay(picture: Picture, maps: NDArray[np.floating]) -> Picture:
    """Overlay attention maps [S, h, w] on a picture, one colour of `palette` per slot, strongest at a map's maximum.

    The picture is turned grey, so that all colours belong to slots.
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
