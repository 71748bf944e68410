"""Stable-Baselines3's callbacks: checking them, and finding their evaluations."""

from collections.abc import Iterator

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, EventCallback


def check_callback(callback: object) -> None:
    """Raise ValueError unless Stable-Baselines3 accepts this: a callback, a list of callbacks, a function, or None."""
    if isinstance(callback, list):
        is_known = all(isinstance(part, BaseCallback) for part in callback)
    else:
        is_known = callback is None or isinstance(callback, BaseCallback) or callable(callback)
    if not is_known:
        raise ValueError(
            f"callback: got {callback!r}, expected a callback of stable_baselines3, a list of them, or a function"
        )


def evaluations(callback: object) -> Iterator[EvalCallback]:
    """Yield the EvalCallbacks in a callback, a list of callbacks, or behind event callbacks."""
    if isinstance(callback, EvalCallback):
        yield callback
    parts = callback if isinstance(callback, list) else []
    parts = callback.callbacks if isinstance(callback, CallbackList) else parts
    parts = [callback.callback] if isinstance(callback, EventCallback) else parts
    for part in parts:
        yield from evaluations(part)
