"""What ffmpeg reads out of a video file."""

import subprocess
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe


def read_back(path: Path, height: int, width: int) -> np.ndarray:
    """The frames [L, height, width, 3] that ffmpeg decodes."""
    command = [get_ffmpeg_exe(), "-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert f" {width}x{height}" in result.stderr.decode()
    return np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3)
