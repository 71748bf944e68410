"""Wrappers of Gymnasium around an environment, by their names and arguments: the setting `env.wrappers`."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import gymnasium

from envs.checks import checked_plain
from envs.wording import quote_error

_EXPECTED = "expected the name of a class of gymnasium.wrappers, or 'module:Class'"


Wrap = Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]


def find_wrappers(wrappers: Mapping[str, Any] | None) -> list[Wrap]:
    """Return functions that put the wrappers around an environment, the innermost first.

    wrappers: name -> arguments as a mapping, or None: {"AtariPreprocessing": {"frame_skip": 4}}. Lists become tuples,
    as Gymnasium's wrappers expect them.

    Raises:
        ValueError: a name that is no wrapper (the nearest one of gymnasium.wrappers is named), a module that cannot be
            imported, or values that are not plain.
    """
    found: list[Wrap] = []
    for name, arguments in checked_plain("env.wrappers", wrappers if wrappers is not None else {}).items():
        if not isinstance(arguments, Mapping | None):
            raise ValueError(f"env.wrappers: got {arguments!r} for {name!r}, expected its arguments as a mapping")
        given = {key: tuple(x) if isinstance(x, list) else x for key, x in (arguments or {}).items()}
        found.append(partial(_find(name), **given))
    return found


def _find(name: str) -> Callable[..., gymnasium.Env[Any, Any]]:
    module, _, kind = name.rpartition(":")
    try:
        wrapper = getattr(import_module(module or "gymnasium.wrappers"), kind, None)
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"env.wrappers: got {name!r}, but its module raises {quote_error(error)}, {_EXPECTED}"
        ) from error
    if not inspect.isclass(wrapper) or not issubclass(wrapper, gymnasium.Wrapper):
        nearest = difflib.get_close_matches(kind, gymnasium.wrappers.__all__, n=1, cutoff=0.0)[0]
        hint = "" if module else f"; the nearest one is {nearest!r}"
        raise ValueError(f"env.wrappers: got {name!r}, {_EXPECTED}{hint}")
    return wrapper
