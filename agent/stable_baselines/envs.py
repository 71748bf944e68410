"""Stable-Baselines3's environments for the agent: names, settings, checks of spaces, and actions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space
from gymnasium.wrappers import FrameStackObservation
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    is_vecenv_wrapped,
    unwrap_vec_normalize,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from agent.config.nested import flatten
from agent.config.presets import make_config
from agent.config.settings import Config
from agent.stable_baselines.arguments import OURS
from envs import GymPixels, make_env, task_names
from envs.adapter import choose_parts
from envs.contract import Contract
from envs.images import is_image
from envs.pixels import PixelEnv
from envs.spaces import OneHot, action_map, is_vector, is_vector_alone, random_actions
from envs.tasks import GYM_PREFIX, base_task
from envs.wording import describe_error, one_line
from world_model.settings import declared, unknown_key

# The environment, learn() or arguments decide these, or they say where a run came from.
_NO_SETTINGS = ("task", "env_frames", "algo", "seed", "device", "started_from", "offline_data")
_OF_TRAINER = (  # settings of `train` that have no meaning without a Trainer
    "offline_updates",
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
    """Return whether this names a task of `run_agent.py train --task`; any other name is a gymnasium id."""
    return base_task(name) in task_names() or name.startswith(GYM_PREFIX)


def task_envs(
    config: Config, wrap: Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]] | None = None
) -> VecEnv:
    """Make environments of the config's task in this process, with its settings, each wrapped by `wrap`."""

    def make() -> gymnasium.Env[Any, Any]:
        env = make_env(config.task, **config.env.options())
        env.max_steps = config.env.max_steps
        return Monitor(env if wrap is None else wrap(env))

    return DummyVecEnv([make] * config.env.num_envs)


def task_of(env: GymEnv) -> tuple[str, dict[str, Any]]:
    """Return the task of an existing environment, and its settings `env.*`.

    Our environments know both. For others the task is "gym:" and their id, or their class without one, a step is one
    env_frame, and where the observation is a vector there are no frames. A one-line ValueError if it is no environment,
    or stacks or normalizes its frames.
    """
    _check_kind(env)
    count = env.num_envs if isinstance(env, VecEnv) else 1
    made, spec = _attribute(env, "made_with"), _attribute(env, "spec")
    if made is not None:
        name = made["task"] if is_task(made["task"]) else f"{GYM_PREFIX}{made['task']}"
        return name, {"num_envs": count} | {key: value for key, value in made.items() if key != "task"}
    kind = type(env if isinstance(env, VecEnv) else env.unwrapped).__name__
    seen = {"size": 0, "vector": True} if is_vector_alone(env.observation_space) else {}
    return f"{GYM_PREFIX}{spec.id if spec is not None else kind}", {"num_envs": count, "action_repeat": 1} | seen


def _attribute(env: GymEnv, name: str) -> Any:
    """Return an attribute of the environment, or of the first of several, behind all wrappers; None if missing."""
    if isinstance(env, VecEnv):
        return env.get_attr(name)[0] if env.has_attr(name) else None
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None


def prepared(env: Any, vector: bool | None) -> GymEnv:
    """Wrap a user's environment so that its answers are checked; a Dict is used as for "gym:<id>" with that `vector`.

    A one-line ValueError unless it has single frames and actions that the agent can use.
    """
    task, is_dict = task_of(env)[0], isinstance(env.observation_space, Dict)
    if isinstance(env, VecEnv):
        if isinstance(env.unwrapped, DummyVecEnv):
            env.unwrapped.envs = [_with_contract(part) for part in env.unwrapped.envs]
        image, is_observed, vectors, _ = choose_parts(env.observation_space, None, vector if is_dict else None, task)
        if is_dict and is_observed and image is not None:
            env = VecSeen(env, [image, *map(str, vectors)]) if vectors else VecExtractDictObs(env, image)
    else:
        is_theirs = is_dict and not isinstance(env.unwrapped, PixelEnv)
        env = GymPixels(env, vector=vector) if is_theirs else _with_contract(env)
    check_spaces(env.observation_space, env.action_space)
    return env


class VecSeen(VecEnvWrapper):
    """Environments with Dicts of observations, of which some entries are kept."""

    def __init__(self, venv: VecEnv, names: Sequence[str]) -> None:
        assert isinstance(venv.observation_space, Dict)
        self._names = names
        super().__init__(venv, Dict({name: venv.observation_space[name] for name in names}))

    def _seen(self, observation: Any) -> dict[str, NDArray[Any]]:
        return {name: observation[name] for name in self._names}

    def reset(self) -> Any:
        """Return the first observations."""
        return self._seen(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        """Return the answers to the last actions."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = self._seen(info["terminal_observation"])
        return self._seen(observations), rewards, dones, infos


def _with_contract(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    is_checked = isinstance(env, Contract) or isinstance(env.unwrapped, PixelEnv)  # ours check already
    return env if is_checked else Contract(env, task_of(env)[0])


def _check_kind(env: Any) -> None:
    """Raise ValueError unless this is an environment, or several, with unmodified frames.

    The agent has a memory, so frames must not be stacked: three grey ones would pass for the channels of one.
    """
    if not isinstance(env, gymnasium.Env | VecEnv):
        kinds = "a gymnasium.Env, a VecEnv, a gymnasium id or a task such as 'cartpole_swingup'"
        raise ValueError(f"env: got {'none' if env is None else repr(env)}, expected {kinds}")
    if isinstance(env, VecEnv):
        is_stacked = is_vecenv_wrapped(env, VecFrameStack) or any(env.env_is_wrapped(FrameStackObservation))
        normalized = unwrap_vec_normalize(env)
        if normalized is not None and normalized.norm_obs:
            raise ValueError(
                "env: got a VecNormalize of observations, expected norm_obs=False: frames stay as they are"
            )
    else:
        is_stacked = is_wrapped(env, FrameStackObservation)
    if is_stacked:
        came = f"observations {_brief(env.observation_space)} of a frame stack"
        raise ValueError(f"env: got {came}, expected single frames: the agent has a memory")


def check_spaces(observations: Space[Any], actions: Space[Any]) -> None:
    """Raise a one-line ValueError unless these are frames or vectors, and actions, that the agent can use."""
    parts = observations.spaces if isinstance(observations, Dict) else {"image": observations}
    images = [part for part in parts.values() if not is_vector(part)]
    has_image = len(images) == 1 and is_image_space(images[0]) and is_image(images[0])
    if not has_image and not is_vector_alone(observations):
        frames = "frames Box(0, 255, (H, W, 3), uint8), a vector Box(low, high, (V,)), or a Dict of both; the task "
        frames += f"'{GYM_PREFIX}<id>' renders environments without frames"
        raise ValueError(f"env: got observations {_brief(observations)}, expected {frames}")
    Actions(actions)


class Actions:
    """The map from the agent's actions, in [-1, 1]^A or one-hot vectors, to an environment's action space.

    ValueError unless the space is a Box with finite bounds, or Discrete.
    """

    def __init__(self, space: Space[Any]) -> None:
        is_unbounded = isinstance(space, Box) and not np.isfinite([space.low, space.high]).all()
        if is_unbounded or not isinstance(space, Box | Discrete):
            raise ValueError(f"env: got actions {_brief(space)}, expected a Box with finite bounds, or Discrete")
        self._map = action_map(space)
        own = self._map.space
        self.dim, self.is_discrete = int(np.prod(own.shape or ())), isinstance(own, OneHot)

    def to_env(self, actions: NDArray[np.float32]) -> NDArray[Any]:
        """Map the agent's actions [..., A] to actions [..., *shape] of the space."""
        return self._map(actions)

    def random(self, generator: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Return random actions of the agent [count, A]."""
        return random_actions(count, self.dim, self.is_discrete, generator)


def space_to_plain(space: Space[Any]) -> dict[str, Any]:
    """Return a space that passes `check_spaces` as plain values."""
    if isinstance(space, Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, OneHot):
        return {"kind": "OneHot", "n": int(space.n)}
    if isinstance(space, Dict):
        return {"kind": "Dict", "spaces": {name: space_to_plain(part) for name, part in space.spaces.items()}}
    assert isinstance(space, Box)
    bounds = (space.low.min(), space.high.max()) if is_image_space(space) else (space.low, space.high)
    low, high = (bound.ravel().tolist() for bound in bounds)
    return {"kind": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}


def space_from_plain(values: Mapping[str, Any]) -> Space[Any]:
    """Return the space that `space_to_plain` was given; ValueError for other values."""
    try:
        return _space_of(values)
    except (KeyError, TypeError, ValueError, AssertionError, OverflowError) as error:
        found = describe_error(error, 100)
        raise ValueError(f"space: got {str(values)[:60]}, expected one of a model's ({found})") from None


def _space_of(values: Mapping[str, Any]) -> Space[Any]:
    if values["kind"] == "Discrete":
        return Discrete(values["n"], start=values["start"])
    if values["kind"] == "OneHot":
        return OneHot(values["n"])
    if values["kind"] == "Dict":
        return Dict({name: _space_of(part) for name, part in values["spaces"].items()})
    shape, dtype = tuple(values["shape"]), np.dtype(values["dtype"])
    low, high = (np.resize(np.array(values[name], dtype), shape) for name in ("low", "high"))
    return Box(low, high, dtype=dtype.type)


def run_spaces(action_dim: int, is_discrete: bool, size: int, vector_dim: int | None) -> dict[str, Any]:
    """Return the spaces of a run's environments as plain values, channels first as Stable-Baselines3 wraps them."""
    actions = OneHot(action_dim) if is_discrete else Box(-1.0, 1.0, (action_dim,), np.float32)
    frames, vectors = Box(0, 255, (3, size, size), np.uint8), Box(-np.inf, np.inf, (vector_dim or 0,), np.float32)
    seen = frames if vector_dim is None else vectors if size == 0 else Dict(image=frames, vector=vectors)
    return {"observation_space": space_to_plain(seen), "action_space": space_to_plain(actions)}


def _brief(space: Space[Any]) -> str:
    """Describe a space in one line."""
    if isinstance(space, Box):
        return f"Box({space.low.min():g}, {space.high.max():g}, {space.shape}, {space.dtype})"
    return one_line(space)


def config_of(
    preset: str, task: str, seed: int, given: Mapping[str, Any], made: Mapping[str, Any] | None = None
) -> Config:
    """Return the preset's config for a task and a seed, with nested or dotted settings applied.

    `made` holds the settings of an existing environment (`task_of`), which cannot be changed any more.
    """
    changes = dict(flatten(given))
    known = [key for key in declared(Config) if not key.startswith(("sac.", "ppo."))]
    blocks = {key.partition(".")[0] for key in known}
    for key in [*given, *changes]:
        if key in OURS:
            raise ValueError(f"{key}: got a value, expected none: here it is {OURS[key]}")
        if key in _NO_SETTINGS or (made is not None and key.startswith("env.")):
            raise ValueError(f"{key}: got a value, expected none: an argument, the environment or learn() decides it")
        if key.removeprefix("train.") in _OF_TRAINER:
            raise ValueError(
                f"{key}: got a value, expected none: callbacks evaluate and save, and learn() ends with its steps"
            )
        if key not in known and key not in blocks:
            raise ValueError(unknown_key(key, known))
    values = changes | {"seed": seed} | {f"env.{key}": value for key, value in (made or {}).items()}
    return make_config(preset, task, values)
