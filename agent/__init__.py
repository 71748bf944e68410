"""The agent: world-model learner, behaviour learned in dreams, and the loop that ties them to environments and replay.

Heavy modules are imported on first use, so that reading a configuration costs no torch import.
"""

import importlib
from typing import Any

_HOMES = {"Agent": "agent.agent", "Trainer": "agent.trainer", "Config": "agent.config", "make_config": "agent.config"}

__all__ = ["Agent", "Config", "Trainer", "make_config"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'agent' has no attribute {name!r}")
