"""Videos of episodes (`record`) and of dreams (`record_dream`, `record_imagination`), imported on first use."""

import importlib
from typing import Any

_HOMES = {
    "record": "agent.video.recording",
    "record_dream": "agent.video.dream_video",
    "record_imagination": "agent.video.imagination",
}

__all__ = ["record", "record_dream", "record_imagination"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'agent.video' has no attribute {name!r}")
