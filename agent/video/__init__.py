"""Videos of episodes (`record`) and of dreams (`record_dream`, `record_imagination`), imported on first use."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.video.dream_video import record_dream
    from agent.video.imagination import record_imagination
    from agent.video.recording import record

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
