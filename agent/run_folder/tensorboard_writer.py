"""TensorBoard's copy of a run's log, in the run's subfolder `tensorboard`."""

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.config.nested import flatten
from agent.run_folder.mirror import Mirror


class TensorBoardWriter(Mirror):
    """Metrics over env_frames, animated images, notes under "health" as text, and the settings as hyper-parameters."""

    title = "TensorBoard"

    def __init__(self, logdir: Path, settings: Mapping[str, Any], resume: bool, tell: Callable[[str], None]) -> None:
        self._folder, self._settings = logdir / "tensorboard", dict(flatten(settings))
        self._board: Any = None

    def begin(self, env_frames: int) -> None:
        """Open an event file that replaces what older ones have after `env_frames`."""
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        self._board = SummaryWriter(str(self._folder), purge_step=env_frames + 1)
        self._write_settings()

    def _write_settings(self) -> None:
        """Write the settings into the same event file; SummaryWriter.add_hparams would start a separate run."""
        from torch.utils.tensorboard.summary import hparams

        values = {
            name: value if type(value) in (int, float, str) else str(value) for name, value in self._settings.items()
        }
        experiment, session, _ = hparams(values, {"eval_return": math.nan})
        self._board.file_writer.add_summary(experiment)
        self._board.file_writer.add_summary(session)

    def write(self, counters: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Write the metrics as scalars."""
        for name, value in metrics.items():
            self._board.add_scalar(name, value, counters["env_frames"])

    def video(self, tag: str, gif: bytes, env_frames: int) -> None:
        """Write an animated image summary, which plays; SummaryWriter.add_video would need moviepy."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = struct.unpack("<HH", gif[6:10])
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        self._board.file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), env_frames)

    def note(self, line: str, env_frames: int) -> None:
        """Write a line of text."""
        self._board.add_text("health", line, env_frames)

    def flush(self) -> None:
        """Bring the event file up to date."""
        self._board.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._board is not None:
            self._board.close()
