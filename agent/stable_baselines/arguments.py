"""What a user of Stable-Baselines3 writes: the policy in front of the environment, and settings under its names."""

import os
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import gymnasium
from stable_baselines3.common.policies import BasePolicy

from world_model.settings import as_declared, unknown_key

_POLICIES = ("CnnPolicy", "CnnLstmPolicy", "MultiInputPolicy")  # all mean the one that there is: frames and a memory
_OF_VECTORS = ("MlpPolicy", "MlpLstmPolicy")
OURS = {  # Stable-Baselines3's settings -> what does the same here
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
    """Let `init(self, env, ...)` be called in Stable-Baselines3's order too: init(self, "CnnPolicy", env, ...).

    ValueError in one line for a policy that there is not.
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
    """Whether an environment follows, or nothing but a policy could be meant."""
    if "env" in settings or (others and hasattr(others[0], "observation_space")):
        return True
    if isinstance(first, str):
        return first.endswith("Policy") and first not in gymnasium.registry
    return isinstance(first, type) and issubclass(first, BasePolicy)


def _check_policy(policy: Any) -> None:
    name = policy if isinstance(policy, str) else getattr(policy, "__name__", repr(policy))
    if name in _OF_VECTORS:
        reason = "the agent sees frames (the task 'gym:<id>' draws environments without them)"
        raise ValueError(f"policy: got '{name}', expected 'CnnPolicy': {reason}")
    if not isinstance(policy, str):
        raise ValueError(f"policy: got {name}, expected 'CnnPolicy', which world_model and behavior shape")
    if policy not in _POLICIES:
        raise ValueError(unknown_key(policy, list(_POLICIES), "policy"))


def positive(name: str, value: Any) -> int:
    """A whole number of any type, 1e5 too, as an int. ValueError unless it is one and at least 1."""
    count: int = as_declared(name, value, int)
    if count < 1:
        raise ValueError(f"{name}: got {count}, expected at least 1")
    return count


def check_options(preset: Any, verbose: Any, tensorboard_log: Any, overrides: Any) -> None:
    """ValueError in one line for an option of AIME that is of another type."""
    as_declared("preset", preset, str)
    as_declared("verbose", verbose, int, 0)
    if not isinstance(tensorboard_log, str | os.PathLike | None):
        raise ValueError(f"tensorboard_log: got {tensorboard_log!r}, expected a folder")
    if not isinstance(overrides, Mapping | None):
        raise ValueError(f"overrides: got {overrides!r}, expected settings under dotted keys")
