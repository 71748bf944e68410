"""What turns frames into a file: the encoders of imageio-ffmpeg's ffmpeg, and Pillow where none of them works."""

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
INSTALL = "pip install --force-reinstall imageio-ffmpeg brings an ffmpeg that has all encoders"
# A gif frame has 256 colours: each frame gets its own palette, so no frame has to wait for the later ones.
_GIF_PALETTE = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1"
# Names and options of ffmpeg's encoders for each kind of file, best first.
ENCODERS: dict[str, dict[str, list[str]]] = {
    ".mp4": {
        "libx264": ["-pix_fmt", "yuv420p", "-crf", "10"],
        "libopenh264": ["-pix_fmt", "yuv420p", "-b:v", "8M"],
        "mpeg4": ["-pix_fmt", "yuv420p", "-qscale:v", "3"],  # few browsers play it
    },
    ".gif": {"gif": ["-pix_fmt", "pal8", "-filter_complex", _GIF_PALETTE, "-loop", "0"]},
}
_PATIENCE = 60.0  # seconds for the rest of a file


class EncodingError(RuntimeError):
    """An encoder does not work, or broke off."""


class Encoder(Protocol):
    """Writes one file."""

    def send(self, frame: NDArray[np.uint8]) -> None:
        """The next frame uint8 [H, W, 3]. EncodingError where the encoder has ended."""

    def finish(self) -> None:
        """Make the file whole. EncodingError where that fails."""

    def abandon(self) -> None:
        """Leave the file as it is."""


class Ffmpeg:
    """One ffmpeg at work on `path`, whose suffix says the format. EncodingError where there is no ffmpeg."""

    def __init__(self, path: Path, name: str, size: tuple[int, int], fps: float) -> None:
        from imageio_ffmpeg import get_ffmpeg_exe

        self._name, self._errors = name, TemporaryFile()  # noqa: SIM115  (closed at the end)
        shape, rate = "{}x{}".format(*size), str(Fraction(fps).limit_denominator())
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", shape, "-r", rate, "-i", "-"]
        options = ["-an", "-vcodec", name, *ENCODERS[path.suffix][name], "-v", "error"]
        try:
            target = str(path.absolute())  # "12:30/a.mp4" and "-a.mp4" would be a protocol and an option
            command = [get_ffmpeg_exe(), "-y", *source, *options, target]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._errors,
                process_group=0,  # Ctrl-C is ours to handle
            )  # fmt: skip
        except (OSError, RuntimeError) as error:
            self._errors.close()
            raise EncodingError(one_line(error)) from None

    def send(self, frame: NDArray[np.uint8]) -> None:
        """The next frame."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except OSError:
            self.finish()  # says why
            raise EncodingError(f"{self._name} reads no frames any more") from None

    def finish(self) -> None:
        """Make the file whole."""
        assert self._process.stdin is not None
        with suppress(OSError):  # the exit status says it
            self._process.stdin.close()
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.abandon()
            raise EncodingError(f"{self._name} did not end in {_PATIENCE:.0f} s") from None
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        self._errors.close()
        if code != 0:
            ended = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            said = next((one_line(line, 160) for line in lines if line.strip()), "")
            raise EncodingError(f"{self._name} broke off ({said or ended})")

    def abandon(self) -> None:
        """Leave the file as it is."""
        assert self._process.stdin is not None
        self._process.kill()
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._errors.close()


class PillowGif:
    """A gif without ffmpeg. Its frames wait in memory for the end, a byte a pixel."""

    def __init__(self, path: Path, fps: float) -> None:
        from PIL import Image

        self._path, self._fps = path, fps
        self._images: list[Image.Image] = []

    def send(self, frame: NDArray[np.uint8]) -> None:
        """The next frame."""
        from PIL import Image

        self._images.append(Image.fromarray(frame).quantize())

    def finish(self) -> None:
        """Write the file."""
        first, *others = self._images
        # delays are whole hundredths of a second: rounded as points in time, so that a second stays a second
        ends = [round(100 * number / self._fps) for number in range(len(self._images) + 1)]
        delays = [10 * (end - start) for start, end in pairwise(ends)]
        first.save(self._path, save_all=True, append_images=others, duration=delays, loop=0)

    def abandon(self) -> None:
        """Forget the frames."""
        self._images.clear()


def open_encoder(path: Path, name: str, size: tuple[int, int], fps: float) -> Encoder:
    """The encoder `name` at the beginning of a file of frames [width, height]."""
    return PillowGif(path, fps) if name == PILLOW else Ffmpeg(path, name, size, fps)


class Choice(NamedTuple):
    """The file that can be written, by which encoder, and why not by better ones (empty for the best)."""

    path: Path
    encoder: str
    failures: tuple[str, ...]

    def remark(self) -> str:
        """What the user should know of it: one line, empty for the best."""
        reasons = "; ".join(self.failures)
        return f"{self.path} is written by {self.encoder} ({reasons}); {INSTALL}" if reasons else ""


def choose_encoder(path: Path) -> Choice:
    """The first encoder that writes files like `path` here, each tried on a tiny one, or Pillow and a gif beside it."""
    failures: dict[str, None] = {}  # as an ordered set: where there is no ffmpeg all fail alike
    for name in ENCODERS[path.suffix]:
        failure = try_encoder(path.suffix, name)
        if failure is None:
            return Choice(path, name, tuple(failures))
        failures[failure] = None
    return Choice(path.with_suffix(".gif"), PILLOW, tuple(failures))


def try_encoder(suffix: str, name: str) -> str | None:
    """Write two tiny frames with one of ffmpeg's encoders and return None, or in one line why that failed."""
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
