"""Gymnasium's API, enforced: the answers of reset and step become plain values, or are refused in one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from textwrap import shorten
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Space
from numpy.typing import NDArray

from envs.images import is_image
from envs.wording import quote_error

_API = {
    "reset": "Gymnasium's reset(seed=..., options=...) -> observation, info",
    "step": "Gymnasium's step(action) -> observation, reward, terminated, truncated, info",
}


class ContractError(ValueError):
    """A violation of Gymnasium's API; the line names the environment, the method, what came and what was expected."""


class Contract(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that checks an environment's answers: rewards become floats, end flags bools, an info of None empty.

    A reward is one number, of Python or numpy, or an array or tensor with one element. An error in the first call of a
    method becomes a ContractError; later errors of the environment are passed on unchanged.

    Args:
        env: any Gymnasium environment.
        task: its name in error lines.

    Raises:
        ContractError: its spaces are not Gymnasium's.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], task: str) -> None:
        super().__init__(env)
        self._task = task
        self._answered: set[str] = set()
        for name in ("observation_space", "action_space"):
            space = getattr(env, name, None)
            if not isinstance(space, Space):
                raise ContractError(f"{name}: got {brief(space)} from {task}, expected one of gymnasium.spaces")
        space = env.observation_space
        parts = space.items() if isinstance(space, Dict) else [(None, space)]
        self._images = [key for key, part in parts if is_image(part)]

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """The spec of the wrapped environment."""
        return self.env.spec

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; ContractError unless the answer is an observation and an info."""
        given: dict[str, Any] = {} if options is None else {"options": options}
        with self._reported("reset"):
            answer = self.env.reset(seed=seed, **given)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise self._error("reset", "a result", answer, "a tuple of 2")
        return self._seen(answer[0]), self._info("reset", answer[1])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take an action; ContractError unless the answer is the five values of a step with the right types."""
        with self._reported("step"):
            answer = self.env.step(action)
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise self._error("step", "a result", answer, "a tuple of 5")
        observation, reward, terminated, truncated, info = answer
        try:
            number = one_number(reward)
        except (TypeError, ValueError, RuntimeError):
            raise self._error("step", "a reward", reward, "one number") from None
        ends = self._flag("terminated", terminated), self._flag("truncated", truncated)
        return self._seen(observation), number, *ends, self._info("step", info)

    def _seen(self, observation: Any) -> Any:
        for key in self._images:
            checked_image(observation, self.env.observation_space, key, self._task)
        return observation

    def _flag(self, name: str, value: Any) -> bool:
        try:
            number = one_number(value)
        except (TypeError, ValueError, RuntimeError):
            number = -1.0
        if number not in (0.0, 1.0):
            raise self._error("step", name, value, "True or False")
        return bool(number)

    def _info(self, method: str, info: Any) -> dict[str, Any]:
        if info is not None and not isinstance(info, Mapping):
            raise self._error(method, "an info", info, "a dict")
        return {} if info is None else dict(info)

    def _error(self, method: str, what: str, came: Any, wanted: str) -> ContractError:
        return ContractError(
            f"{method}: got {what} of {brief(came)} from {self._task}, expected {wanted}: {_API[method]}"
        )

    @contextmanager
    def _reported(self, method: str) -> Iterator[None]:
        try:
            yield
        except ContractError:
            raise
        except (Exception, SystemExit) as error:
            if method in self._answered:
                raise
            raise ContractError(
                f"{method}: got {quote_error(error)} from {self._task}, expected an answer: {_API[method]}"
            ) from error
        self._answered.add(method)


def checked_image(observation: Any, space: Any, key: str | None, task: str) -> NDArray[np.uint8]:
    """Return the image in an observation, the entry `key` of a Dict; ContractError unless it matches its space."""
    part, space = _entry(observation, space, key, task)
    image = np.asarray(part)
    if image.dtype != np.uint8 or image.shape != space.shape:
        came = f"{image.dtype} {image.shape}"
        raise ContractError(f"observation: got {came} from {task}, expected uint8 {space.shape} as in its space")
    return image


def checked_vector(observation: Any, space: Any, keys: tuple[str | None, ...], task: str) -> NDArray[Any]:
    """Return the numbers in an observation, one after the other: its entries `keys`, None for the observation itself.

    ContractError for an entry that is missing, or not as its space says.
    """
    found = []
    for key in keys:
        part, expected = _entry(observation, space, key, task)
        numbers = np.asarray(part)
        if numbers.shape != expected.shape or numbers.dtype.kind not in "fiub":
            came, of_entry = f"{numbers.dtype} {numbers.shape}", "" if key is None else f" for {key!r}"
            raise ContractError(
                f"observation: got {came}{of_entry} from {task}, expected numbers {expected.shape} as in its space"
            )
        found.append(numbers.ravel())
    return np.concatenate(found)


def _entry(observation: Any, space: Any, key: str | None, task: str) -> tuple[Any, Any]:
    """Return an entry of an observation and its space, both as they are if `key` is None; ContractError without it."""
    if key is None:
        return observation, space
    if not isinstance(observation, Mapping) or key not in observation:
        came = brief(observation)
        raise ContractError(f"observation: got {came} from {task}, expected a dict with {key!r}, as in its space")
    return observation[key], space[key]


def one_number(value: Any) -> float:
    """Return a value as a float: a real number, or an array or tensor with one element.

    Raises:
        TypeError, ValueError or RuntimeError: anything else, such as lists, text and complex numbers.
    """
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"got {brief(value)}, expected a number")
    return float(value)


def brief(value: Any) -> str:
    """Describe a value in a few words for an error line."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array {value.shape}"
    if isinstance(value, tuple):
        return f"{len(value)} values ({', '.join(type(part).__name__ for part in value)})"
    return shorten(repr(value), 60, placeholder="...")
