"""Conversion of images of any size and layout to frames."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray
from PIL import Image

Frame = NDArray[np.uint8]

_CHANNELS = (1, 3)  # grey, colours
_MIN_SIDE = 8  # pixels; anything smaller is a board or a grid of codes, not an image


def is_image(space: Space[Any]) -> bool:
    """Return whether a space holds images.

    Images are uint8 from 0 to 255, [H, W], [H, W, C] or [C, H, W] with C of 1 or 3, at least 8 pixels high and wide.
    """
    if not isinstance(space, Box) or space.dtype != np.uint8 or (space.low != 0).any() or (space.high != 255).any():
        return False
    sides = space.shape
    if len(sides) == 3:
        sides = sides[:2] if sides[-1] in _CHANNELS else sides[1:] if sides[0] in _CHANNELS else ()
    return len(sides) == 2 and min(sides) >= _MIN_SIDE


def to_rgb(image: NDArray[np.uint8]) -> Frame:
    """Return an image of any layout that is_image() accepts as [H, W, 3]; grey is repeated."""
    if image.ndim == 2:
        image = image[..., None]
    elif image.shape[-1] not in _CHANNELS:
        image = np.moveaxis(image, 0, -1)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def drawn_rgb(image: Any) -> Frame | None:
    """Return the output of a render() as [H, W, 3], with grey repeated and alpha dropped, or None if it is no image."""
    if not isinstance(image, np.ndarray):
        return None
    channels = image.shape[2:] if image.ndim in (2, 3) else (0,)
    if image.dtype != np.uint8 or image.size == 0 or channels not in ((), (1,), (3,), (4,)):
        return None
    return image[..., :3] if channels == (4,) else to_rgb(image)


def resize_area(image: Frame, height: int, width: int) -> Frame:
    """Return [H, W, 3] resized to a new frame [height, width, 3]; each pixel is the mean of those that it covers."""
    if image.shape[:2] == (height, width):
        return image.copy()
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.array(picture.resize((width, height), Image.Resampling.BOX))
