"""VideoWriter: frames to an mp4 or gif file, one at a time."""

import os
from math import floor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

# A gif frame has 256 colours: each frame gets its own palette, so no frame has to wait for the later ones.
_GIF_PALETTE = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"
_SETTINGS: dict[str, dict[str, Any]] = {
    ".mp4": {"codec": "libx264", "pix_fmt_out": "yuv420p", "quality": 8},
    ".gif": {"codec": "gif", "pix_fmt_out": "pal8", "quality": None,
             "output_params": ["-filter_complex", _GIF_PALETTE, "-loop", "0"]},
}  # fmt: skip


GIF_FPS = 50.0  # the most: a delay below two hundredths of a second is ten of them in browsers


def is_in_gif(index: int, fps: float) -> bool:
    """Whether a gif shows the frame of this number, of so many a second; beyond GIF_FPS some are left out evenly."""
    return index == 0 or floor(index * GIF_FPS / fps) > floor((index - 1) * GIF_FPS / fps)


class VideoWriter:
    """Writes frames to a video in constant memory; the file appears under its name only when it is whole.

    Use it as a context manager. An error inside the block leaves no file; folders are made as needed.

    Args:
        path: the file, .mp4 or .gif.
        fps: frames a second; a gif leaves out what is more than GIF_FPS.

    Raises:
        ValueError: another suffix, a folder, fps not above 0, or (at the end) no frame at all.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        self.path = Path(path)
        if self.path.suffix not in _SETTINGS:
            raise ValueError(f"path: got {str(path)!r}, expected a name that ends in {' or '.join(_SETTINGS)}")
        if self.path.is_dir():
            raise ValueError(f"path: got {str(path)!r}, a folder, expected the name of a file")
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps: got {fps!r}, expected a finite number above 0")
        self._fps = float(fps)
        # The suffix stays: the encoder knows the format by it.
        self._partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        self._writer: Any = None
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame uint8 [H, W, 3], all of one size; an mp4 with an odd side grows by one pixel there.

        Raises:
            ValueError: not uint8 [H, W, 3], or not of the first frame's size.
        """
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.size == 0:
            raise ValueError(f"frame: got {frame.dtype} {frame.shape}, expected uint8 [H, W, 3]")
        if self._writer is None:
            self._open(frame.shape)
        if frame.shape != self._shape:
            raise ValueError(f"frame: got {frame.shape}, expected {self._shape} like the first frame")
        self._count += 1
        if self.path.suffix == ".gif" and not is_in_gif(self._count - 1, self._fps):
            return
        if self.path.suffix == ".mp4":
            frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        self._writer.send(np.ascontiguousarray(frame))

    def _open(self, shape: tuple[int, ...]) -> None:
        from imageio_ffmpeg import write_frames

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._shape = shape
        height, width = shape[:2]
        if self.path.suffix == ".mp4":  # H.264 halves the colours' resolution: both sides must be even
            height, width = height + height % 2, width + width % 2
        fps = min(self._fps, GIF_FPS) if self.path.suffix == ".gif" else self._fps
        target = str(self._partial.absolute())  # "12:30/a.mp4" and "-a.mp4" would be a protocol and an option
        self._writer = write_frames(target, (width, height), fps=fps, macro_block_size=1, **_SETTINGS[self.path.suffix])
        self._writer.send(None)  # a generator: run it up to its first frame

    def close(self) -> None:
        """Finish the file and give it its name; a second call does nothing.

        Raises:
            ValueError: no frame was added.
        """
        if not self._shape:
            raise ValueError(f"path: {str(self.path)!r} got no frame, expected at least one")
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            os.replace(self._partial, self.path)

    def _discard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
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
