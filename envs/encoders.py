"""Video encoders: those of imageio-ffmpeg's ffmpeg, and Pillow as a fallback."""

import os
import signal
import subprocess
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.wording import one_line

PILLOW = "Pillow"
INSTALL = "pip install --force-reinstall imageio-ffmpeg installs an ffmpeg with all encoders"
# A gif frame has 256 colours: each frame gets its own palette, so that frames can be written one at a time.
_GIF_PALETTE = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"
# Names and options of ffmpeg's encoders for each kind of file, best first.
ENCODERS: dict[str, dict[str, list[str]]] = {
    ".mp4": {
        "libx264": ["-pix_fmt", "yuv420p", "-crf", "10"],
        "libopenh264": ["-pix_fmt", "yuv420p", "-b:v", "8M"],
        "mpeg4": ["-pix_fmt", "yuv420p", "-qscale:v", "3"],  # supported by few browsers
    },
    ".gif": {"gif": ["-pix_fmt", "pal8", "-filter_complex", _GIF_PALETTE, "-loop", "0"]},
}
# Options that replace those above in files for web pages: a sixth of the size, and frames that are found quickly
COMPACT: dict[str, list[str]] = {
    "libx264": ["-crf", "26", "-g", "25"],
    "libopenh264": ["-b:v", "1M", "-g", "25"],
    "mpeg4": ["-qscale:v", "8", "-g", "25"],
}
_PATIENCE = 60.0  # seconds to finish a file


class EncodingError(RuntimeError):
    """An encoder that does not work, or failed on the way."""


class Encoder(Protocol):
    """An encoder of one file."""

    def send(self, frame: NDArray[np.uint8]) -> None:
        """Write the next frame uint8 [H, W, 3]. EncodingError if the encoder has ended."""

    def finish(self) -> None:
        """Complete the file. EncodingError if that fails."""

    def abandon(self) -> None:
        """Stop, leaving the file incomplete."""


class Ffmpeg:
    """An ffmpeg process that writes `path`, whose suffix is the format. EncodingError if there is no ffmpeg."""

    def __init__(self, path: Path, name: str, size: tuple[int, int], fps: float, compact: bool = False) -> None:
        from imageio_ffmpeg import get_ffmpeg_exe

        self._name, self._errors = name, TemporaryFile()  # noqa: SIM115  (closed at the end)
        shape, rate = "{}x{}".format(*size), str(Fraction(fps).limit_denominator())
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", shape, "-r", rate, "-i", "-"]
        options = [
            "-an",
            "-vcodec",
            name,
            *ENCODERS[path.suffix][name],
            *(COMPACT.get(name, []) if compact else []),
            "-v",
            "error",
        ]
        try:
            target = str(path.absolute())  # "12:30/a.mp4" and "-a.mp4" would be read as a protocol and an option
            command = [get_ffmpeg_exe(), "-y", *source, *options, target]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                process_group=0,  # so that Ctrl-C reaches only this process
            )
        except (OSError, RuntimeError) as error:
            self._errors.close()
            raise EncodingError(one_line(error)) from None

    def send(self, frame: NDArray[np.uint8]) -> None:
        """Write the next frame."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError:
            self.finish()  # raises the reason
            raise EncodingError(f"{self._name} stopped reading frames") from None

    def finish(self) -> None:
        """Complete the file."""
        assert self._process.stdin is not None
        with suppress(OSError):  # the exit status reports it
            self._process.stdin.close()
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.abandon()
            raise EncodingError(f"{self._name} did not finish within {_PATIENCE:.0f} s") from None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        self._errors.close()
        if code != 0:
            ended = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            said = next((one_line(line, 160) for line in lines if line.strip()), "")
            raise EncodingError(f"{self._name} failed ({said or ended})")

    def abandon(self) -> None:
        """Stop, leaving the file incomplete."""
        assert self._process.stdin is not None
        self._process.kill()
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._errors.close()


class PillowGif:
    """An encoder of gifs without ffmpeg, which keeps the frames in memory, one byte per pixel."""

    def __init__(self, path: Path, fps: float) -> None:
        from PIL import Image

        self._path, self._fps = path, fps
        self._images: list[Image.Image] = []

    def send(self, frame: NDArray[np.uint8]) -> None:
        """Keep the next frame."""
        from PIL import Image

        self._images.append(Image.fromarray(frame).quantize())

    def finish(self) -> None:
        """Write the file."""
        first, *others = self._images
        # Delays are whole 1/100 s: the points in time are rounded, so that errors do not add up.
        ends = [round(100 * number / self._fps) for number in range(len(self._images) + 1)]
        delays = [10 * (end - start) for start, end in pairwise(ends)]
        first.save(self._path, save_all=True, append_images=others, duration=delays, loop=0)

    def abandon(self) -> None:
        """Drop the frames."""
        self._images.clear()


def open_encoder(path: Path, name: str, size: tuple[int, int], fps: float, compact: bool = False) -> Encoder:
    """Open the encoder `name` for a file with frames of `size` (width, height); `compact` as in VideoWriter."""
    return PillowGif(path, fps) if name == PILLOW else Ffmpeg(path, name, size, fps, compact)


class Choice(NamedTuple):
    """The file that can be written, its encoder, and why better encoders failed (empty for the best one)."""

    path: Path
    encoder: str
    failures: tuple[str, ...]

    def remark(self) -> str:
        """Return a line for the user, empty for the best encoder."""
        reasons = "; ".join(self.failures)
        return f"{self.path} is written by {self.encoder} ({reasons}); {INSTALL}" if reasons else ""


def choose_encoder(path: Path) -> Choice:
    """Return the first encoder that works for files like `path`, each tried on a tiny one, or Pillow with a gif."""
    failures: dict[str, None] = {}  # an ordered set: without ffmpeg all fail alike
    for name in ENCODERS[path.suffix]:
        failure = try_encoder(path.suffix, name)
        if failure is None:
            return Choice(path, name, tuple(failures))
        failures[failure] = None
    return Choice(path.with_suffix(".gif"), PILLOW, tuple(failures))


def try_encoder(suffix: str, name: str) -> str | None:
    """Write two tiny frames with one of ffmpeg's encoders; return None, or in one line why that failed."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"try{suffix}"
        try:
            encoder = Ffmpeg(path, name, (64, 64), 20.0)
            for shade in (0, 255):
                encoder.send(np.full((64, 64, 3), shade, np.uint8))
            encoder.finish()
        except EncodingError as error:
            return str(error)
        return None if path.is_file() and os.stat(path).st_size > 0 else "it wrote no file"
