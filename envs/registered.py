"""Environments that are registered with gymnasium, found by the tasks "gym:<id>" and "gym:<module>:<id>"."""

import difflib
import inspect
from importlib import import_module
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.error import DependencyNotInstalled, NamespaceNotFound

from envs.rendering import choose_gl_backend
from envs.tasks import GYM_PREFIX


def make_registered(task: str) -> gymnasium.Env[Any, Any]:
    """Make the environment of a task "gym:<id>", with render_mode "rgb_array" where it has one.

    Raises:
        ValueError: no such id (the nearest is named), or a module or package that is missing here.
        RenderingError: the environment draws with MuJoCo, and no GL backend works.
    """
    spec = _find(task)
    try:
        creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(str(spec.entry_point))
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco"):
            choose_gl_backend()
        mode: dict[str, Any] = {"render_mode": "rgb_array"} if _can_draw(creator) else {}
        return gymnasium.make(spec, disable_env_checker=True, **mode)
    except (DependencyNotInstalled, ImportError) as error:
        raise ValueError(f"task: got {task!r}, which lacks something here: {_one_line(error)}") from error


def _find(task: str) -> EnvSpec:
    module, _, name = task.removeprefix(GYM_PREFIX).rpartition(":")
    if module:
        try:
            import_module(module)
        except ImportError as error:
            raise ValueError(
                f"task: got {task!r}, but importing {module!r} failed ({_one_line(error)}), "
                "expected a module on the Python path (PYTHONPATH)"
            ) from error
    try:
        return gymnasium.spec(name)
    except NamespaceNotFound as error:
        raise ValueError(f"task: got {task!r}, expected an id that is registered: {_one_line(error)}") from None
    except gymnasium.error.Error:
        nearest = difflib.get_close_matches(name, list(gymnasium.registry), n=1, cutoff=0.0)[0]
        known = task.removesuffix(name) + nearest
        raise ValueError(
            f"task: got {task!r}, expected an id that is registered; the nearest one is {known!r}"
        ) from None


def _can_draw(creator: Any) -> bool:
    """Whether a class lists render_mode "rgb_array", or a function takes the argument."""
    metadata = getattr(creator, "metadata", None)
    if isinstance(metadata, dict):
        return "rgb_array" in metadata.get("render_modes", ())
    parameters = inspect.signature(creator).parameters.values()
    return any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
