"""VideoWriter, by reading its files back."""

import subprocess

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from benchmarks.reliability import injection
from envs import VideoWriter
from envs.encoders import EncodingError

COLORS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120), (240, 240, 240))


def flat_frames(height, width):
    return [np.full((height, width, 3), color, np.uint8) for color in COLORS]


def read_back(path, height, width):
    """Return the frames [L, height, width, 3] that ffmpeg decodes, and what it says about the file."""
    command = [get_ffmpeg_exe(), "-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, check=True, timeout=60)
    text = result.stderr.decode()
    assert f" {width}x{height}" in text
    return np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3), text


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize("size", [(64, 64), (66, 50), (65, 51)])
def test_frames_come_back_in_order_and_size(tmp_path, suffix, size):
    path = tmp_path / "deep" / f"clip{suffix}"
    with VideoWriter(path, fps=20) as writer:
        for frame in flat_frames(*size):
            writer.add(frame)
            assert not path.exists()  # nothing under the name before the end
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    height, width = (side + side % 2 if suffix == ".mp4" else side for side in size)
    frames, text = read_back(path, height, width)
    assert " 20 fps" in text
    # Flat colours survive but for the rounding of YUV 4:2:0 (mp4) or of a palette (gif).
    np.testing.assert_allclose(frames.mean((1, 2)), COLORS, atol=6)


def test_a_compact_mp4_has_the_same_frames_in_less_than_half_the_space(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    for name, compact in (("usual.mp4", False), ("compact.mp4", True)):
        with VideoWriter(tmp_path / name, 20, compact) as writer:
            for frame in noise:
                writer.add(frame)
    assert (tmp_path / "compact.mp4").stat().st_size < (tmp_path / "usual.mp4").stat().st_size / 2
    assert len(read_back(tmp_path / "compact.mp4", 64, 64)[0]) == 20


@pytest.mark.parametrize(
    ("fps", "kept"), [(12.5, 25), (30, 60), (48, 96), (50, 100), (60, 100), (125, 100), (500, 100)]
)
def test_a_second_of_a_gif_is_a_second_in_browsers(tmp_path, fps, kept):
    with VideoWriter(tmp_path / "a.gif", fps) as writer:
        for index in range(int(2 * fps)):
            writer.add(np.full((16, 16, 3), index * 255 // (2 * fps), np.uint8))
    with Image.open(tmp_path / "a.gif") as picture:
        delays = []
        for index in range(picture.n_frames):
            picture.seek(index)
            delays.append(picture.info["duration"])
    assert (len(delays), sum(delays)) == (kept, 2000)
    assert min(delays) >= 20  # milliseconds; browsers show shorter ones for 100


@pytest.mark.parametrize("name", ["12:30/clip.mp4", "a:b.gif", "file:c.mp4", "-y.gif"])
def test_a_name_is_no_protocol_and_no_option_of_the_encoder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with VideoWriter(name, 10) as writer:
        for frame in flat_frames(32, 32):
            writer.add(frame)
    assert len(read_back((tmp_path / name).absolute(), 32, 32)[0]) == 5
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [name]


def test_frames_are_upright_and_not_mirrored(tmp_path):
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16, :24] = 255  # top left
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.add(np.asfortranarray(frame))  # laid out in another order
    (back,), _ = read_back(tmp_path / "a.mp4", 32, 48)
    assert np.abs(back.astype(int) - frame).mean() < 5


def test_an_error_leaves_no_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    with pytest.raises(KeyError), VideoWriter(path, 10) as writer:  # noqa: PT012
        writer.add(flat_frames(32, 32)[0])
        raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    assert path.read_text() == "old"


def test_bad_input_is_one_line(tmp_path):
    for name, fps in (("clip.avi", 10), ("clip", 10), ("clip.mp4", 0), ("clip.mp4", float("nan"))):
        with pytest.raises(ValueError, match=r"^(path|fps): got [^\n]*expected [^\n]*$"):
            VideoWriter(tmp_path / name, fps)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ValueError, match=r"^path: got [^\n]*, a folder, expected the name of a file$"):
        VideoWriter(tmp_path / "folder.mp4", 10)
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        writer.add(np.zeros((32, 32, 3), np.uint8))
        bad = np.zeros((32, 32, 3)), np.zeros((32, 32), np.uint8), np.zeros((34, 32, 3), np.uint8), None
        for frame in bad:
            with pytest.raises(ValueError, match=r"^frame: got [^\n]*expected [^\n]*$"):
                writer.add(frame)
    writer.close()
    assert len(read_back(tmp_path / "clip.mp4", 32, 32)[0]) == 1
    with pytest.raises(ValueError, match="got no frame"), VideoWriter(tmp_path / "empty.mp4", 10):
        pass
    assert not (tmp_path / "empty.mp4").exists()


def write(path, frames):
    with VideoWriter(path, fps=20) as writer:
        for frame in frames:
            writer.add(frame)
    return writer.path


def test_another_encoder_writes_where_libx264_is_missing(tmp_path, caplog):
    with injection.lost_encoder("no libx264"):
        path = write(tmp_path / "clip.mp4", flat_frames(64, 48))
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    frames, text = read_back(path, 64, 48)
    assert " 20 fps" in text
    np.testing.assert_allclose(frames.mean((1, 2)), COLORS, atol=6)
    (record,) = caplog.records
    assert record.message.startswith(f"{path} is written by libopenh264 (libx264 failed (Unknown encoder)); pip ")


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_without_ffmpeg_pillow_writes_a_gif(tmp_path, caplog, suffix):
    with injection.lost_encoder("missing"):
        path = write(tmp_path / f"clip{suffix}", flat_frames(64, 48))
    assert [file.name for file in tmp_path.iterdir()] == [path.name] == ["clip.gif"]
    frames, text = read_back(path, 64, 48)
    assert " 20 fps" in text
    np.testing.assert_allclose(frames.mean((1, 2)), COLORS, atol=6)
    (record,) = caplog.records
    assert f"{path} is written by Pillow (" in record.message


@pytest.mark.parametrize("count", [1, 40])
def test_an_encoder_that_dies_leaves_the_old_file(tmp_path, count):
    """In the middle, where it is noticed at a frame, or with all frames on their way, at the end."""
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    with injection.lost_encoder("killed"), pytest.raises(EncodingError, match=r"^libx264 failed \(SIGKILL\)$"):
        write(path, [np.zeros((160, 160, 3), np.uint8)] * count)
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]
    assert path.read_text() == "old"
