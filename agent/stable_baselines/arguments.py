"""Arguments in Stable-Baselines3's style: the policy before the environment, and settings under its names."""

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import gymnasium
from stable_baselines3.common.policies import BasePolicy

from world_model.settings import as_declared, unknown_key

_POLICIES = ("CnnPolicy", "CnnLstmPolicy", "MultiInputPolicy")  # all mean our only policy, which has a memory
_OF_VECTORS = ("MlpPolicy", "MlpLstmPolicy")
OURS = {  # Stable-Baselines3's settings -> their equivalents here
    "batch_size": "replay.batch_size",
    "buffer_size": "replay.capacity_steps",
    "ent_coef": "behavior.entropy",
    "gae_lambda": "behavior.lambd",
    "gamma": "behavior.gamma",
    "gradient_steps": "train.train_ratio",
    "learning_rate": "optimizer.model_lr, optimizer.actor_lr and optimizer.critic_lr",
    "learning_starts": "replay.prefill_frames",
    "max_grad_norm": "optimizer.model_clip and optimizer.behavior_clip",
    "policy_kwargs": "settings under world_model and behavior",
    "train_freq": "train.train_ratio",
}


def policy_first(init: Callable[..., None]) -> Callable[..., None]:
    """Let `init(self, env, ...)` also be called in Stable-Baselines3's order: init(self, "CnnPolicy", env, ...).

    A one-line ValueError for an unknown policy.
    """

    @wraps(init)
    def with_policy(self: Any, *arguments: Any, policy: Any = None, **settings: Any) -> None:
        if policy is None and arguments and _is_policy(arguments[0], arguments[1:], settings):
            policy, arguments = arguments[0], arguments[1:]
        if policy is not None:
            _check_policy(policy)
        init(self, *arguments, **settings)

    return with_policy


def _is_policy(first: Any, others: tuple[Any, ...], settings: Mapping[str, Any]) -> bool:
    """Return whether an environment follows, or the first argument can only be a policy."""
    if "env" in settings or (others and hasattr(others[0], "observation_space")):
        return True
    if isinstance(first, str):
        return first.endswith("Policy") and first not in gymnasium.registry
    return isinstance(first, type) and issubclass(first, BasePolicy)


def _check_policy(policy: Any) -> None:
    name = policy if isinstance(policy, str) else getattr(policy, "__name__", repr(policy))
    if name in _OF_VECTORS:
        reason = "the environment decides whether the agent sees frames or a vector"
        raise ValueError(f"policy: got '{name}', expected 'CnnPolicy' or none: {reason}")
    if not isinstance(policy, str):
        raise ValueError(f"policy: got {name}, expected 'CnnPolicy'; settings of world_model and behavior shape it")
    if policy not in _POLICIES:
        raise ValueError(unknown_key(policy, list(_POLICIES), "policy"))


def positive(name: str, value: Any) -> int:
    """Return a whole number of any type, such as 1e5, as an int. ValueError unless it is at least 1."""
    count: int = as_declared(name, value, int)
    if count < 1:
        raise ValueError(f"{name}: got {count}, expected at least 1")
    return count


def check_options(preset: Any, verbose: Any, tensorboard_log: Any, overrides: Any) -> None:
    """Raise a one-line ValueError for an option of AIME that has the wrong type."""
    as_declared("preset", preset, str)
    as_declared("verbose", verbose, int, 0)
    if not isinstance(tensorboard_log, str | os.PathLike | None):
        raise ValueError(f"tensorboard_log: got {tensorboard_log!r}, expected a folder")
    if not isinstance(overrides, Mapping | None):
        raise ValueError(f"overrides: got {overrides!r}, expected settings under dotted keys")
