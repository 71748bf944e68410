"""Evaluation of agents (`evaluate`, `random_evaluation`), their statistics, published scores and learning curves.

The two functions are imported on first use: reading curves needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.evaluation.episodes import evaluate, random_evaluation

__all__ = ["evaluate", "random_evaluation"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("agent.evaluation.episodes"), name)
    raise AttributeError(f"module 'agent.evaluation' has no attribute {name!r}")
