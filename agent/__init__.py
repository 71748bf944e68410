"""The agent: world-model learner, behaviour learned in dreams, and the loop that ties them to environments and replay.

Heavy modules are imported on first use: reading a configuration does not import torch, and only `AIME` and
`load` of a baseline's run import stable_baselines3.
"""

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.config.presets import make_config
    from agent.config.settings import Config
    from agent.learning.agent import Agent
    from agent.stable_baselines.aime import AIME
    from agent.stable_baselines.load import load
    from agent.training.trainer import Trainer

_HOMES = {
    "AIME": "agent.stable_baselines.aime",
    "Agent": "agent.learning.agent",
    "Config": "agent.config.settings",
    "Trainer": "agent.training.trainer",
    "load": "agent.stable_baselines.load",
    "make_config": "agent.config.presets",
}

__all__ = ["AIME", "Agent", "Config", "Trainer", "load", "make_config"]


def _check_neighbours() -> None:
    """Raise a one-line ImportError if a user's folder hides one of our packages."""
    root = Path(__file__).resolve().parents[1]
    for name in ("envs", "replay", "multi_task_learning", "world_model"):
        spec = find_spec(name)
        places = [] if spec is None else [*(spec.submodule_search_locations or [spec.origin or ""])]
        if places and Path(places[0]).resolve().parent != root:
            line = f"{name}: got '{places[0]}', which hides '{root / name}'"
            raise ImportError(f"{line}, expected a Python path without another {name}", name=name)


_check_neighbours()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'agent' has no attribute {name!r}")
