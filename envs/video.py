"""VideoWriter: an mp4 or gif file, written frame by frame."""

import logging
import os
from math import floor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from envs.encoders import ENCODERS, Encoder, choose_encoder, open_encoder

logger = logging.getLogger(__name__)


GIF_FPS = 50.0  # the maximum: browsers show delays below 2/100 s as 10/100 s


def is_in_gif(index: int, fps: float) -> bool:
    """Return whether a gif includes frame number `index` of a video; above GIF_FPS frames are dropped evenly."""
    return index == 0 or floor(index * GIF_FPS / fps) > floor((index - 1) * GIF_FPS / fps)


class VideoWriter:
    """A writer of videos in constant memory, whose file appears only when it is complete.

    Use it as a context manager. An error inside the block leaves no file; folders are created as needed. If ffmpeg
    lacks the usual encoder another one is used, and if none works Pillow writes a gif. A warning says so, and `path`
    is the name of the written file.

    Args:
        path: the file, .mp4 or .gif.
        fps: frames per second; a gif drops frames above GIF_FPS.
        compact: write an mp4 of a sixth of the size, good enough for a web page.

    Raises:
        ValueError: another suffix, a folder, fps not above 0, or (at the end) no frame at all.
        EncodingError: the encoder failed.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float, compact: bool = False) -> None:
        self.path = Path(path)
        if self.path.suffix not in ENCODERS:
            raise ValueError(f"path: got {str(path)!r}, expected a name ending in {' or '.join(ENCODERS)}")
        if self.path.is_dir():
            raise ValueError(f"path: got {str(path)!r}, a folder, expected the name of a file")
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps: got {fps!r}, expected a finite number above 0")
        self._fps, self._compact = float(fps), compact
        choice = choose_encoder(self.path)
        if choice.failures:
            logger.warning("%s", choice.remark())
        self.path, self._encoder_name = choice.path, choice.encoder
        # The suffix stays, because it tells the encoder the format.
        self._partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        self._encoder: Encoder | None = None
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame uint8 [H, W, 3]; all have one size. Odd sides of an mp4 grow by one pixel.

        Raises:
            ValueError: not uint8 [H, W, 3], or not of the first frame's size.
            EncodingError: the encoder failed.
        """
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.size == 0:
            raise ValueError(f"frame: got {frame.dtype} {frame.shape}, expected uint8 [H, W, 3]")
        encoder = self._encoder if self._encoder is not None else self._open(frame.shape)
        if frame.shape != self._shape:
            raise ValueError(f"frame: got {frame.shape}, expected {self._shape} like the first frame")
        self._count += 1
        if self.path.suffix == ".gif" and not is_in_gif(self._count - 1, self._fps):
            return
        if self.path.suffix == ".mp4":
            frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        encoder.send(frame)

    def _open(self, shape: tuple[int, ...]) -> Encoder:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._shape = shape
        height, width = shape[:2]
        if self.path.suffix == ".mp4":  # H.264 halves the resolution of colours, so both sides must be even
            height, width = height + height % 2, width + width % 2
        fps = min(self._fps, GIF_FPS) if self.path.suffix == ".gif" else self._fps
        self._encoder = open_encoder(self._partial, self._encoder_name, (width, height), fps, self._compact)
        return self._encoder

    def close(self) -> None:
        """Complete the file under its name; a second call does nothing.

        Raises:
            ValueError: no frame was added.
            EncodingError: the encoder failed; an older file stays unchanged.
        """
        if not self._shape:
            raise ValueError(f"path: {str(self.path)!r} got no frame, expected at least one")
        encoder, self._encoder = self._encoder, None
        if encoder is None:
            return
        try:
            encoder.finish()
            os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _discard(self) -> None:
        encoder, self._encoder = self._encoder, None
        if encoder is not None:
            encoder.abandon()
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._discard()
