"""What a run has learned, whichever algorithm it was."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config.files import load_config
from agent.learning.agent import Agent
from agent.run_folder.load import is_run, load_agent
from agent.run_folder.model_file import File

if TYPE_CHECKING:
    from agent.stable_baselines.baselines import Baseline


def load(logdir: File, device: str | None = None) -> "Agent | Baseline":
    """The agent of a run's newest good checkpoint as it plays, or its baseline; `device` None: cuda where there is one.

    A file that `AIME.save` wrote is taken as well. FileNotFoundError where `logdir` is neither, ValueError where all
    checkpoints are damaged.
    """
    if is_run(logdir) and _algo(Path(logdir)) != "aime":
        from agent.stable_baselines.baselines import Baseline  # only now: it costs Stable-Baselines3's import

        return Baseline.load(Path(logdir), device)
    return load_agent(logdir, device)


def _algo(logdir: Path) -> str:
    """What learned in a run; ours where its config.yaml does not say, as a checkpoint of ours has its own copy."""
    with suppress(ValueError, OSError):
        return load_config(logdir / "config.yaml").algo
    return "aime"
