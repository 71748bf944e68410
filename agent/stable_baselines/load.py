"""Loading the agent or baseline of a run."""

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
    """Load the agent, or the baseline, of a run's newest good checkpoint; `device` None is cuda if available.

    A file written by `AIME.save` works as well. FileNotFoundError if `logdir` is neither, ValueError if all checkpoints
    are damaged.
    """
    if is_run(logdir) and _algo(Path(logdir)) != "aime":
        from agent.stable_baselines.baselines import Baseline  # here, because it imports Stable-Baselines3

        return Baseline.load(Path(logdir), device)
    return load_agent(logdir, device)


def _algo(logdir: Path) -> str:
    """Return the algorithm of a run; ours if its config.yaml is unreadable, since our checkpoints hold a copy."""
    with suppress(ValueError, OSError):
        return load_config(logdir / "config.yaml").algo
    return "aime"
