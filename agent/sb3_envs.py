"""Between Stable-Baselines3's environments and the agent: what a name means, settings, spaces that fit, actions."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecExtractDictObs

from agent.config import Config, make_config
from envs import GymPixels, make_env, task_names
from envs.adapter import choose_image, env_name
from envs.contract import Contract
from envs.images import is_image
from envs.spaces import OneHot, action_map, random_actions
from envs.tasks import GYM_PREFIX, base_task

_NO_SETTINGS = ("task", "env_frames", "algo", "seed", "device")  # the environment, learn() or arguments decide them
_OF_TRAINER = (  # settings of `train` that mean nothing without a Trainer
    "final_updates",
    "eval_every",
    "eval_episodes",
    "video_frames",
    "checkpoint_minutes",
    "keep_checkpoints",
    "max_skipped",
)

GymEnv = gymnasium.Env[Any, Any] | VecEnv


def is_task(name: str) -> bool:
    """Whether this names a task of `run_agent.py train --task`; every other name is a gymnasium id."""
    return base_task(name) in task_names() or name.startswith(GYM_PREFIX)


def task_envs(
    config: Config, wrap: Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]] | None = None
) -> VecEnv:
    """Environments of the config's task in this process, as the config plays and draws them, each inside `wrap`."""

    def make() -> gymnasium.Env[Any, Any]:
        env = make_env(config.task, **config.env.options())
        env.max_steps = config.env.max_steps
        return Monitor(env if wrap is None else wrap(env))

    return DummyVecEnv([make] * config.env.num_envs)


def name_of(env: GymEnv) -> str:
    """ "gym:" and the id that an environment was made from, or its class where it has none."""
    if isinstance(env, VecEnv):
        specs = env.get_attr("spec") if env.has_attr("spec") else [None]
        return f"{GYM_PREFIX}{specs[0].id if specs[0] is not None else type(env).__name__}"
    name = env_name(env)
    return name if name.startswith(GYM_PREFIX) else GYM_PREFIX + name


def prepared(env: GymEnv) -> GymEnv:
    """A user's environment whose answers are checked; of a Dict the image is seen, as of a task "gym:<id>"."""
    is_dict = isinstance(env.observation_space, Dict)
    if not isinstance(env, VecEnv):
        return GymPixels(env) if is_dict else Contract(env, name_of(env))
    inner = env.unwrapped
    if isinstance(inner, DummyVecEnv):
        inner.envs = [e if isinstance(e, Contract) else Contract(e, name_of(e)) for e in inner.envs]
    key, is_observed = choose_image(env.observation_space, None, name_of(env))
    return VecExtractDictObs(env, key) if is_dict and is_observed and key is not None else env


def check_spaces(observations: Space[Any], actions: Space[Any]) -> None:
    """ValueError in one line unless these are frames and actions that the agent can use."""
    if not is_image_space(observations) or not is_image(observations):
        frames = f"frames Box(0, 255, (H, W, 3), uint8); the task '{GYM_PREFIX}<id>' draws environments without them"
        raise ValueError(f"env: got observations {_brief(observations)}, expected {frames}")
    Actions(actions)


class Actions:
    """The agent's actions, in [-1, 1]^A or one-hot vectors, as actions of an environment's space.

    ValueError for other spaces than a Box with finite bounds and Discrete.
    """

    def __init__(self, space: Space[Any]) -> None:
        is_unbounded = isinstance(space, Box) and not np.isfinite([space.low, space.high]).all()
        if is_unbounded or not isinstance(space, Box | Discrete):
            raise ValueError(f"env: got actions {_brief(space)}, expected a Box with finite bounds, or Discrete")
        self._map = None if isinstance(space, OneHot) else action_map(space)  # None: the agent's actions as they are
        own = space if self._map is None else self._map.space
        self.dim, self.is_discrete = int(np.prod(own.shape or ())), isinstance(own, OneHot)

    def to_env(self, actions: NDArray[np.float32]) -> NDArray[Any]:
        """[..., A] -> [..., *shape] in the space."""
        return actions if self._map is None else self._map(actions)

    def random(self, generator: np.random.Generator, count: int) -> NDArray[np.float32]:
        """What chance does: actions of the agent [count, A]."""
        return random_actions(count, self.dim, self.is_discrete, generator)


def space_to_plain(space: Space[Any]) -> dict[str, Any]:
    """A space of `check_spaces` as plain values."""
    if isinstance(space, Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, OneHot):
        return {"kind": "OneHot", "n": int(space.n)}
    assert isinstance(space, Box)
    bounds = (space.low.min(), space.high.max()) if is_image_space(space) else (space.low, space.high)
    low, high = (bound.ravel().tolist() for bound in bounds)
    return {"kind": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}


def space_from_plain(values: Mapping[str, Any]) -> Space[Any]:
    """The space that `space_to_plain` was given."""
    if values["kind"] == "Discrete":
        return Discrete(values["n"], start=values["start"])
    if values["kind"] == "OneHot":
        return OneHot(values["n"])
    shape, dtype = tuple(values["shape"]), np.dtype(values["dtype"])
    low, high = (np.resize(np.array(values[name], dtype), shape) for name in ("low", "high"))
    return Box(low, high, dtype=dtype.type)


def _brief(space: Space[Any]) -> str:
    """A space in one line."""
    if isinstance(space, Box):
        return f"Box({space.low.min():g}, {space.high.max():g}, {space.shape}, {space.dtype})"
    return " ".join(str(space).split())


def config_of(preset: str, task: str, seed: int, changes: Mapping[str, Any], is_made: bool) -> Config:
    """The preset's config for a task and a seed under dotted settings.

    An environment that is made already has no settings here: it is played as it is.
    """
    for key in changes:
        if key in _NO_SETTINGS or (is_made and key.startswith("env.")):
            raise ValueError(f"{key}: got a value, expected none: an argument, the environment or learn() decides it")
        if key.removeprefix("train.") in _OF_TRAINER:
            raise ValueError(
                f"{key}: got a value, expected none: callbacks evaluate and save, and learn() ends with its steps"
            )
    values = dict(changes) | {"seed": seed} | ({"env.action_repeat": 1} if is_made else {})
    return make_config(preset, task, values)
