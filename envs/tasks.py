"""The names of all tasks, listed here so that no simulator is imported for them."""

import difflib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from envs.checks import checked_plain

_SUITE = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse two_poles three_poles",
    "cheetah": "run",
    "dog": "stand walk trot run fetch",
    "finger": "spin turn_easy turn_hard",
    "fish": "upright swim",
    "hopper": "stand hop",
    "humanoid": "stand walk run run_pure_state",
    "humanoid_CMU": "stand walk run",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "walk run escape fetch",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer6 swimmer15",
    "walker": "stand walk run",
}
# "ball_in_cup_catch" -> ("ball_in_cup", "catch"): domains contain underscores, so names cannot simply be split.
SUITE_TASKS: dict[str, tuple[str, str]] = {
    f"{domain}_{task}": (domain, task) for domain, tasks in _SUITE.items() for task in tasks.split()
}
DISTRACTING = "-distract"  # after a task of the suite: the same task in distracting pictures (envs/distraction.py)
OWN_TASKS = ("counting", "reaching")
GYM_PREFIX = "gym:"  # before an id that is registered with gymnasium


def task_names() -> list[str]:
    """Return all named tasks of make_env, sorted."""
    return sorted([*SUITE_TASKS, *(task + DISTRACTING for task in SUITE_TASKS), *OWN_TASKS])


def checked_task(task: str) -> str:
    """Return `task`, or raise a ValueError that names the nearest known one; ids after "gym:" are checked when made."""
    if not isinstance(task, str) or not task:
        raise ValueError(f"task: got {task!r}, expected a name like 'cartpole_swingup'")
    name, known = _name(task), task_names()
    if not name.startswith(GYM_PREFIX) and name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"task: got {task!r}, expected a known task or '{GYM_PREFIX}<id>'; the nearest one is {nearest!r}"
        )
    return task


def _name(task: str) -> str:
    """Return the task without the arguments after "?" and the observation key after "#"."""
    return task.partition("#")[0].partition("?")[0]


def base_task(task: str) -> str:
    """Return the task without arguments and observation key, and of a distracting task the one of the suite."""
    name = _name(task)
    suite_task = name.removesuffix(DISTRACTING)
    return suite_task if suite_task in SUITE_TASKS else name


def is_distracting(task: str) -> bool:
    """Return whether a task is one of the suite in distracting pictures: "walker_walk-distract"."""
    return base_task(task) != _name(task)


def task_key(task: str) -> str | None:
    """Return the part of a task after "#", or None."""
    return task.partition("#")[2] or None


def task_arguments(task: str, kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an environment's arguments: those of "gym:ALE/Pong-v5?difficulty=1&mode=1", and `kwargs`.

    Values in a task are JSON, Python's True, False and None, or else text; %20 and the like are decoded.

    Raises:
        ValueError: an argument that is not name=value, a duplicate name, or values that are not plain.
    """
    query = task.partition("#")[0].partition("?")[2]
    found = dict(checked_plain("env.kwargs", kwargs if kwargs is not None else {}))
    for part in query.split("&") if query else ():
        name, equals, text = part.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"task: got {part!r} in {task!r}, expected arguments as in '?difficulty=1&mode=1'")
        if name in found:
            raise ValueError(f"task: got {name!r} twice for {task!r}, expected it once, after '?' or in env.kwargs")
        found[name] = _value(unquote(text))
    return dict(checked_plain("task", found))


def _value(text: str) -> Any:
    constants = {"True": True, "False": False, "None": None}
    try:
        return constants[text] if text in constants else json.loads(text)
    except ValueError:
        return text
