"""Logging to Weights & Biases (`train --log wandb`): settings, metrics over env_frames, videos and notes.

Importing this module does not import wandb.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.run_folder.mirror import Mirror, run_id
from envs.packages import check_version
from envs.wording import one_line

PROJECT = "aime"
OLDEST = (0, 31)  # version of wandb; older ones cannot bound the wait at the end
WAIT_SECONDS = 30.0  # for the service, at the start and at the end
AWAY_MODES = ("offline", "dryrun", "disabled")  # modes without login, chosen by WANDB_MODE or `wandb offline`


class WandbWriter(Mirror):
    """The `Mirror` of a run at W&B, in project "aime", named after its folder.

    If the service cannot be reached at the start, the data stays in the run's folder, to be uploaded with `wandb sync`,
    which one line says. W&B's own files go into the run's subfolder `wandb`.
    """

    title = "W&B"

    @staticmethod
    def check() -> None:
        """Raise a one-line ValueError if the package is missing or old, or nobody is logged in."""
        check_version("wandb", OLDEST)
        import wandb

        settings = wandb.setup(wandb.Settings(silent=True)).settings
        if settings.mode not in AWAY_MODES and not wandb.login(verify=False, prompt=False):  # neither asks nor connects
            raise ValueError("wandb: got no login, expected `wandb login`, WANDB_API_KEY or WANDB_MODE=offline")

    def __init__(self, logdir: Path, settings: Mapping[str, Any], resume: bool, tell: Callable[[str], None]) -> None:
        import wandb

        folder = logdir / "wandb"
        self.leftover = f"the rest of the copy stays in {folder}, for  wandb sync"
        options: dict[str, Any] = {
            "project": PROJECT,
            "name": logdir.absolute().name,
            "dir": str(logdir),
            "id": run_id(folder, resume),
            "resume": "allow",
            "config": dict(settings),
            # W&B's own console output would break the progress bar.
            "settings": wandb.Settings(
                console="off",
                silent=True,
                init_timeout=WAIT_SECONDS,
                finish_timeout=WAIT_SECONDS,
                finish_timeout_raises=True,
            ),
        }
        try:
            self._run: Any = wandb.init(**options)
        except wandb.errors.Error as error:
            tell(f"W&B: not reached ({one_line(error, 120)}); the copy stays in {folder}")
            wandb.teardown()  # wandb's service still holds the id of the failed run
            self._run = wandb.init(**options, mode="offline")
        self._run.define_metric("*", step_metric="env_frames")
        if self._run.offline:
            tell(f"W&B: offline; upload with  wandb sync {folder / 'offline-run-*'}")
        else:
            tell(f"W&B: {self._run.url}")

    def write(self, counters: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Write the counters and metrics of one line."""
        self._run.log({**counters, **metrics})

    def video(self, tag: str, gif: bytes, env_frames: int) -> None:
        """Write an animated GIF."""
        import wandb

        self._run.log({tag: wandb.Video(io.BytesIO(gif), format="gif"), "env_frames": env_frames})

    def note(self, line: str, env_frames: int) -> None:
        """Write a line of text; the latest is "health" in the W&B run's summary."""
        self._run.log({"health": line, "env_frames": env_frames})

    def close(self) -> None:
        """Wait up to half a minute for the upload; the rest stays in the run's folder."""
        self._run.finish()
