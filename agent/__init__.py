"""The agent: world-model learner, behaviour learned in dreams, and the loop that ties them to environments and replay.

Heavy modules are imported on first use, so that reading a configuration costs no torch import, and
stable_baselines3 is imported by those who ask for AIME.
"""

import importlib
from typing import Any

_HOMES = {
    "AIME": "agent.sb3",
    "Agent": "agent.agent",
    "Config": "agent.config",
    "Trainer": "agent.trainer",
    "make_config": "agent.config",
}

__all__ = ["AIME", "Agent", "Config", "Trainer", "make_config"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'agent' has no attribute {name!r}")
