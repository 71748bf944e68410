"""A run's copy at Weights & Biases (`train --wandb`): optional, and never a reason for a run to stop.

Importing this costs no wandb. What the service is told: settings, metrics over env_frames, videos, lines of health.
"""

import io
import re
import secrets
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from envs.wording import one_line, told

PROJECT = "aime"
OLDEST = (0, 31)  # of wandb: what was tried; older ones cannot bound the wait at the end
INSTALL = "pip install 'wandb>=0.31'"
ID_FILE = "run_id"  # in the folder `wandb` of the run's own: a resumed run goes on in the same W&B run
WAIT_SECONDS = 30.0  # for the service, at the start and at the end
AWAY_MODES = ("offline", "dryrun", "disabled")  # no login needed; WANDB_MODE or `wandb offline` choose one


def check_wandb() -> None:
    """ValueError in one line where --wandb cannot work: the package is missing or old, or nobody is logged in."""
    try:
        found = version("wandb")
    except PackageNotFoundError:
        raise ValueError(f"wandb: the package is not installed; expected what `{INSTALL}` installs") from None
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST:
        raise ValueError(f"wandb: got version {found}, expected what `{INSTALL}` installs")
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    if settings.mode not in AWAY_MODES and not wandb.login(verify=False, prompt=False):  # neither asks nor connects
        raise ValueError("wandb: got no login, expected `wandb login`, WANDB_API_KEY or WANDB_MODE=offline")


class WandbWriter:
    """The `Mirror` of a run at W&B, in project "aime", named as its folder.

    Where the service cannot be reached at the start, the copy is kept in the run's folder instead, to be uploaded by
    `wandb sync`; trouble later ends the copy. Either is told in one line.

    Args:
        logdir: the run's folder; W&B's own files go into its subfolder `wandb`.
        settings: the run's config, nested.
        resume: go on in the W&B run that the folder names; otherwise a new one is begun.
        tell: takes lines for the user.
    """

    def __init__(
        self, logdir: Path, settings: Mapping[str, Any], resume: bool, tell: Callable[[str], None] = print
    ) -> None:
        self._tell, self._folder = tell, logdir / "wandb"
        self._run: Any = None  # wandb's, None where there is no copy
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
            # W&B would take the screen for its own lines, which breaks the progress bar.
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
            wandb.teardown()  # its service still holds the id of the run that failed
            self._run = wandb.init(**options, mode="offline")
        self._run.define_metric("*", step_metric="env_frames")
        if self._run.offline:
            self._tell(f"W&B: offline; upload with  wandb sync {self._folder / 'offline-run-*'}")
        else:
            self._tell(f"W&B: {self._run.url}")

    def write(self, row: Mapping[str, float]) -> None:
        """Counters and finite metrics of one moment."""
        self._log(dict(row))

    def video(self, tag: str, gif: bytes, env_frames: int) -> None:
        """An animated GIF of that moment."""
        import wandb

        self._guard(lambda: self._log({tag: wandb.Video(io.BytesIO(gif), format="gif"), "env_frames": env_frames}))

    def note(self, line: str, env_frames: int) -> None:
        """A line of health, among the run's own: the latest is "health" in its summary."""
        self._log({"health": line, "env_frames": env_frames})

    def close(self) -> None:
        """Wait up to half a minute for the upload, then leave the rest in the run's folder."""
        run, self._run = self._run, None
        if run is not None:
            self._guard(run.finish, f"the rest of the copy stays in {self._folder}, for  wandb sync")

    def _log(self, row: dict[str, Any]) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.log(row))

    def _guard(self, action: Callable[[], Any], remedy: str = "the run goes on without it") -> None:
        """Whatever goes wrong inside wandb ends the copy, in one line, and not the run."""
        try:
            action()
        except Exception as error:
            self._run = None
            self._tell(f"W&B: {told(error, 120)}; {remedy}")


def _read_id(path: Path) -> str | None:
    """The id that an earlier session wrote; None where there is none, or something else."""
    try:
        with open(path, "rb") as file:
            text = file.read(100).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch(r"[0-9A-Za-z_-]{1,64}", text) else None
