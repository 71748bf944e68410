"""Logging to Trackio, whose database and dashboard are on this machine (`train --log trackio`).

Importing this module does not import trackio. Its methods queue; a thread of trackio's writes. Trackio reports trouble
with its database as Python warnings of its own.
"""

import contextlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agent.run_folder.mirror import Mirror, run_id
from envs.packages import check_version

PROJECT = "aime"
OLDEST = (0, 43)  # version of trackio, the one that was tried


class TrackioWriter(Mirror):
    """The `Mirror` of a run in Trackio's project "aime", under the name of its folder and an id."""

    title = "Trackio"

    @staticmethod
    def check() -> None:
        """Raise a one-line ValueError if the package is missing or old."""
        check_version("trackio", OLDEST)

    def __init__(self, logdir: Path, settings: Mapping[str, Any], resume: bool, tell: Callable[[str], None]) -> None:
        # Trackio knows runs by their names, and folders of the same name may lie in several places.
        name = f"{logdir.absolute().name}-{run_id(logdir / 'trackio', resume)}"
        with _silent():  # its lines would break the progress bar
            import trackio

            self._run = trackio.init(
                project=PROJECT,
                name=name,
                config=dict(settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        tell(f"Trackio: {name}; show it with  trackio show --project {PROJECT}")

    def write(self, counters: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Write the counters and metrics at the step env_frames."""
        self._run.log({**counters, **metrics}, step=int(counters["env_frames"]))

    def video(self, tag: str, gif: bytes, env_frames: int) -> None:
        """Write an animated GIF, of which Trackio keeps a copy."""
        import trackio

        with TemporaryDirectory() as folder:
            file = Path(folder, "video.gif")
            file.write_bytes(gif)
            self._run.log({tag: trackio.Video(file)}, step=env_frames)

    def note(self, line: str, env_frames: int) -> None:
        """Write a line of text as an alert."""
        import trackio

        with _silent():
            self._run.alert(line, level=trackio.AlertLevel.WARN, step=env_frames)

    def close(self) -> None:
        """Wait up to half a minute until everything is written."""
        import trackio

        with _silent():
            trackio.finish()


def _silent() -> contextlib.AbstractContextManager[Any]:
    return contextlib.redirect_stdout(io.StringIO())
