"""Logging to Weights & Biases (`train --wandb`): optional, and never a reason for a run to stop.

Importing this module does not import wandb. The service gets settings, metrics over env_frames, videos and notes.
"""

import io
import re
import secrets
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from envs.wording import describe_error, one_line

PROJECT = "aime"
OLDEST = (0, 31)  # version of wandb; older ones cannot bound the wait at the end
INSTALL = "pip install 'wandb>=0.31'"
ID_FILE = "run_id"  # in the run's subfolder `wandb`: a resumed run continues the same W&B run
WAIT_SECONDS = 30.0  # for the service, at the start and at the end
AWAY_MODES = ("offline", "dryrun", "disabled")  # modes without login, chosen by WANDB_MODE or `wandb offline`


def check_wandb() -> None:
    """Raise a one-line ValueError if --wandb cannot work: the package is missing or old, or nobody is logged in."""
    try:
        found = version("wandb")
    except PackageNotFoundError:
        raise ValueError(f"wandb: got no package, expected the version that `{INSTALL}` installs") from None
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise ValueError(f"wandb: got version {found}, expected the one that `{INSTALL}` installs")
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    if settings.mode not in AWAY_MODES and not wandb.login(verify=False, prompt=False):  # neither asks nor connects
        raise ValueError("wandb: got no login, expected `wandb login`, WANDB_API_KEY or WANDB_MODE=offline")


class WandbWriter:
    """The `Mirror` of a run at W&B, in project "aime", named after its folder.

    If the service cannot be reached at the start, the data stays in the run's folder, to be uploaded with `wandb sync`;
    an error later ends the mirroring. Either is reported in one line.

    Args:
        logdir: the run's folder; W&B's own files go into its subfolder `wandb`.
        settings: the run's config, nested.
        resume: continue the W&B run that the folder names; otherwise start a new one.
        tell: gets lines for the user.
    """

    def __init__(
        self, logdir: Path, settings: Mapping[str, Any], resume: bool, tell: Callable[[str], None] = print
    ) -> None:
        self._tell, self._folder = tell, logdir / "wandb"
        self._run: Any = None  # wandb's run; None without mirroring
        self._guard(lambda: self._begin(logdir, settings, resume))

    def _begin(self, logdir: Path, settings: Mapping[str, Any], resume: bool) -> None:
        import wandb

        id_file = self._folder / ID_FILE
        run_id = _read_id(id_file) if resume else None
        if run_id is None:
            run_id = secrets.token_hex(4)
            id_file.parent.mkdir(parents=True, exist_ok=True)
            id_file.write_text(run_id, encoding="utf-8")
        options: dict[str, Any] = {
            "project": PROJECT,
            "name": logdir.absolute().name,
            "dir": str(logdir),
            "id": run_id,
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
            self._run = wandb.init(**options)
        except wandb.errors.Error as error:
            self._tell(f"W&B: not reached ({one_line(error, 120)}); the copy stays in {self._folder}")
            wandb.teardown()  # wandb's service still holds the id of the failed run
            self._run = wandb.init(**options, mode="offline")
        self._run.define_metric("*", step_metric="env_frames")
        if self._run.offline:
            self._tell(f"W&B: offline; upload with  wandb sync {self._folder / 'offline-run-*'}")
        else:
            self._tell(f"W&B: {self._run.url}")

    def write(self, row: Mapping[str, float]) -> None:
        """Write the counters and finite metrics of one line."""
        self._log(dict(row))

    def video(self, tag: str, gif: bytes, env_frames: int) -> None:
        """Write an animated GIF."""
        import wandb

        self._guard(lambda: self._log({tag: wandb.Video(io.BytesIO(gif), format="gif"), "env_frames": env_frames}))

    def note(self, line: str, env_frames: int) -> None:
        """Write a line of text; the latest is "health" in the W&B run's summary."""
        self._log({"health": line, "env_frames": env_frames})

    def close(self) -> None:
        """Wait up to half a minute for the upload; the rest stays in the run's folder."""
        run, self._run = self._run, None
        if run is not None:
            self._guard(run.finish, f"the rest of the copy stays in {self._folder}, for  wandb sync")

    def _log(self, row: dict[str, Any]) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.log(row))

    def _guard(self, action: Callable[[], Any], remedy: str = "the run continues without it") -> None:
        """Run an action of wandb; any error ends the mirroring with one line, but not the run."""
        try:
            action()
        except Exception as error:
            self._run = None
            self._tell(f"W&B: {describe_error(error, 120)}; {remedy}")


def _read_id(path: Path) -> str | None:
    """Return the id that an earlier session wrote; None if there is none, or it is invalid."""
    try:
        with open(path, "rb") as file:
            text = file.read(100).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"[0-9A-Za-z_-]{1,64}", text) else None
