"""Environments registered with gymnasium, for the tasks "gym:<id>" and "gym:<module>:<id>"."""

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.error import DependencyNotInstalled, NamespaceNotFound

from envs.contract import Contract, ContractError
from envs.rendering import choose_gl_backend
from envs.tasks import GYM_PREFIX, base_task, task_arguments
from envs.wording import one_line, quote_error
from envs.wrapping import find_wrappers

# Modules that register environments on import -> their package, and the prefixes of their ids.
REGISTRARS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ale_py": ("ale-py opencv-python-headless", ("ALE/",)),
    "crafter": ("crafter", ("CrafterReward-", "CrafterNoReward-")),
    "flappy_bird_gymnasium": ("flappy-bird-gymnasium", ("FlappyBird-",)),
    "gym_aloha": ("gym-aloha", ("gym_aloha/",)),
    "gym_pusht": ("gym-pusht", ("gym_pusht/",)),
    "gym_xarm": ("gym-xarm", ("gym_xarm/",)),
    "gymnasium_robotics": (
        "gymnasium-robotics",
        ("Adroit", "AntMaze_", "Fetch", "FrankaKitchen-", "HandManipulate", "HandReach", "PointMaze_"),
    ),
    "highway_env": (
        "highway-env",
        ("highway-", "intersection-", "merge-", "parking-", "racetrack-", "roundabout-", "two-way-", "u-turn-"),
    ),
    "metaworld": ("metaworld", ("Meta-World/",)),
    "minigrid": ("minigrid", ("BabyAI-", "MiniGrid-")),
    "miniworld": ("miniworld", ("MiniWorld-",)),
    "panda_gym": (
        "panda-gym",
        ("PandaFlip", "PandaPickAndPlace", "PandaPush", "PandaReach", "PandaSlide", "PandaStack"),
    ),
    "PyFlyt.gym_envs": ("PyFlyt", ("PyFlyt/",)),
}
_ADAPTED = {"crafter": "envs.crafter"}  # packages of another interface -> our module that registers their ids
_NOTES = {"metaworld": " in a virtual environment of its own, since it replaces MuJoCo by one too old for dm_control"}
_DECIDED = ("render_mode", "disable_env_checker", "id")  # arguments that a task may not give


def make_registered(
    task: str, kwargs: Mapping[str, Any] | None = None, wrappers: Mapping[str, Any] | None = None
) -> gymnasium.Env[Any, Any]:
    """Make the environment of a task "gym:<id>", with render_mode "rgb_array" if it has one, inside a Contract.

    Args:
        task: "gym:<id>" or "gym:<module>:<id>", either with "?name=value&..."; known packages are imported as needed.
        kwargs: further arguments of the environment, or of gymnasium.make.
        wrappers: names and arguments of wrappers around the environment itself, as for `find_wrappers`.

    Raises:
        ValueError: no such id or wrapper (the nearest is named), a missing module or package, or a constructor that
            raises.
        RenderingError: the environment renders with MuJoCo, and no GL backend works.
    """
    arguments = task_arguments(task, kwargs)
    for name in _DECIDED:
        if name in arguments:
            raise ValueError(f"env.kwargs: got {name!r} for {task!r}, expected none: it is set automatically")
    spec = _find(base_task(task))
    around = find_wrappers(wrappers)
    if str(spec.entry_point).startswith("gymnasium.envs.mujoco"):
        choose_gl_backend()
    try:
        creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
        mode: dict[str, Any] = {"render_mode": "rgb_array"} if _can_draw(creator) else {}

        def create(**given: Any) -> Any:
            env = creator(**given)
            if not isinstance(env, gymnasium.Env):
                return env  # gymnasium refuses it
            for wrapper in around:
                env = wrapper(env)
            return Contract(env, task)

        checked = dataclasses.replace(spec, entry_point=create)
        return gymnasium.make(checked, disable_env_checker=True, **mode, **arguments)
    except (DependencyNotInstalled, ImportError) as error:
        raise ValueError(f"task: got {task!r}, which lacks a dependency: {one_line(error)}") from error
    except ContractError:
        raise
    except (Exception, SystemExit) as error:
        what = f"constructor or wrapper ({', '.join(wrappers)})" if wrappers else "constructor"
        raise ValueError(f"task: got {task!r}, whose {what} raises {quote_error(error)}") from error


def _find(task: str) -> EnvSpec:
    module, _, name = task.removeprefix(GYM_PREFIX).rpartition(":")
    if not module and name not in gymnasium.registry:
        module = _registrar(task, name)
    if module:
        _import(module, task)
    try:
        return gymnasium.spec(name)
    except NamespaceNotFound as error:
        raise ValueError(
            f"task: got {task!r}, expected a registered id: {one_line(error)} "
            f"(or name the module that registers it: '{GYM_PREFIX}<module>:{name}')"
        ) from None
    except gymnasium.error.Error:
        nearest = difflib.get_close_matches(name, list(gymnasium.registry), n=1, cutoff=0.0)[0]
        known = task.removesuffix(name) + nearest
        raise ValueError(f"task: got {task!r}, expected a registered id; the nearest one is {known!r}") from None


def _registrar(task: str, name: str) -> str:
    """Return the module that registers an id, "" if none is known; ValueError if it is not installed."""
    for module, (package, starts) in REGISTRARS.items():
        if name.startswith(starts):
            if find_spec(module.partition(".")[0]) is None:
                other = f"'{GYM_PREFIX}<module>:{name}' if another module registers it"
                install = f"`pip install {package}`{_NOTES.get(module, '')}"
                raise ValueError(f"task: got {task!r}, which lacks a dependency: {install}, or {other}")
            return _ADAPTED.get(module, module)
    return ""


def _import(module: str, task: str) -> None:
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):  # an import inside the module
            raise ValueError(f"task: got {task!r}, which lacks a dependency: {one_line(error)}") from error
        raise ValueError(
            f"task: got {task!r}, but importing {module!r} failed ({one_line(error)}), "
            "expected a module on the Python path (PYTHONPATH)"
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"task: got {task!r}, but importing {module!r} raises {quote_error(error)}") from error


def _can_draw(creator: Any) -> bool:
    """Return whether a class lists render_mode "rgb_array", or a function takes the argument render_mode."""
    metadata = getattr(creator, "metadata", None)
    if isinstance(metadata, dict):
        return "rgb_array" in metadata.get("render_modes", ())
    parameters = inspect.signature(creator).parameters.values()
    return any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)
