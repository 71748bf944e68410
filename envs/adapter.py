"""GymPixels: the adapter for any gymnasium environment with pixels."""

import logging
import multiprocessing
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Dict, Space
from numpy.typing import NDArray

from envs.contract import Contract, ContractError, brief, checked_image, checked_vector
from envs.images import Frame, drawn_rgb, is_image, resize_area, to_rgb
from envs.pixels import PixelEnv
from envs.registered import make_registered
from envs.spaces import action_map, is_vector
from envs.tasks import GYM_PREFIX, task_key
from envs.wording import one_line, quote_error

GymEnv = gymnasium.Env[Any, Any]

logger = logging.getLogger(__name__)

_FPS = 30.0  # for environments without render_fps
_SEEDS = 2**31  # some simulators reject larger seeds


class GymPixels(PixelEnv):
    """A gymnasium environment with frames uint8 [size, size, 3] and actions in the agent's form.

    Frames are the image in the observation (a uint8 Box, or an entry of a Dict), resized by area to a square. Without
    one they are what render() draws; with size 0 there are none, and nothing needs to draw. Actions in [-1, 1]^A are
    scaled to the bounds of a Box of any shape; for a Discrete they are one-hot vectors (`envs.spaces.OneHot`).

    Args:
        source: a task "gym:<id>" or "gym:<module>:<id>", either with "?<argument>=<value>&..." and then
            "#<observation key>"; an environment; or a function that makes one. An environment made here is tried out
            at once with a reset, a step and a rendering, which the next reset undoes. A given environment is reset at
            most, and closed with this one.
        seed: seed of the first reset.
        action_repeat: env frames per step.
        size: side of the square frames, pixels; 0 for vectors alone.
        observation_key: the entry of a Dict to use, if it has several images.
        render_mode: "rgb_array" or None.
        vector: whether the vectors in the observation come beside the frames, joined in the order of their names; None:
            where there is an image beside them in a Dict.
        kwargs: further arguments of a task's environment.
        wrappers: names and arguments of wrappers of Gymnasium around a task's environment, the innermost first.

    Raises:
        ValueError: no such environment, no pixels, unsupported actions, an argument out of its range, or an environment
            that violates Gymnasium's API.
        RenderingError: it renders with MuJoCo and no GL backend works.
    """

    def __init__(
        self,
        source: str | GymEnv | Callable[[], GymEnv],
        seed: int = 0,
        action_repeat: int = 1,
        size: int = 64,
        observation_key: str | None = None,
        render_mode: str | None = "rgb_array",
        kwargs: Mapping[str, Any] | None = None,
        wrappers: Mapping[str, Any] | None = None,
        vector: bool | None = None,
    ) -> None:
        is_made = not isinstance(source, gymnasium.Env)
        self._env, self.task = _open(source, kwargs or {}, wrappers or {})
        if isinstance(source, str) and observation_key is None:
            observation_key = task_key(source)
        try:
            seen = choose_parts(self._env.observation_space, observation_key, vector, self.task, size != 0)
            self._key, self._is_observed, self._vectors, vector_dim = seen
            self._to_actions = action_map(self._env.action_space)
            self._is_rendered = self._try_reset(is_made, size != 0)
            space = self._to_actions.space
            if is_made:
                self._try_step()
            fps = float(self._env.metadata.get("render_fps") or _FPS)
            super().__init__(self.task, space.low.size, fps, seed, action_repeat, size, render_mode, vector_dim)
        except BaseException:
            if is_made:
                self._close()
            raise
        self.action_space, self.vector = space, vector

    def _try_reset(self, is_made: bool, has_frames: bool) -> bool:
        """Return whether render() works, tried at once so that a failure does not show up in the middle of a run."""
        is_needed = has_frames and not self._is_observed
        draws = self._env.render_mode == "rgb_array"
        if draws or is_made:
            self._begin(0)
        if draws:
            try:
                with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a GL library, about a screen
                    self._rendered()
            except (Exception, SystemExit) as error:
                if is_needed:
                    raise self._drawing_error(error) from error
                shown = "videos show the observation" if self._is_observed else "there are no videos"
                _warn_once(f"{self.task}: render() raises {quote_error(error)}; {shown}")
                draws = False
        if not draws and is_needed:
            space = one_line(self._env.observation_space)
            raise ValueError(
                f"task: got {self.task!r} with render_mode {self._env.render_mode!r} and observations {space}, "
                "expected pixels: a uint8 image from 0 to 255 in the observation, or render_mode 'rgb_array'; "
                "env.size 0 takes its vectors alone"
            )
        return draws

    def _drawing_error(self, error: BaseException) -> ValueError:
        if isinstance(error, ContractError):
            return error
        if isinstance(error, DependencyNotInstalled):
            return ValueError(f"task: got {self.task!r}, which lacks a dependency: {one_line(error)}")
        return ContractError(f"render: got {quote_error(error)} from {self.task}, expected a frame uint8 [H, W, 3]")

    def _try_step(self) -> None:
        """Try a step, whose effect the next reset undoes."""
        self._advance(np.zeros(self._to_actions.space.shape, np.float32))
        if self._is_observed:
            self._observed()
        if self._vectors:
            self._measure()

    def _begin(self, seed: int) -> None:
        self._observation, _ = self._env.reset(seed=seed % _SEEDS)

    def _advance(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        self._observation, reward, terminated, truncated, _ = self._env.step(self._to_actions(action))
        return float(reward), bool(terminated), bool(truncated)

    def _draw(self, height: int, width: int) -> Frame:
        return resize_area(self._observed() if self._is_observed else self._rendered(), height, width)

    def _measure(self) -> NDArray[Any]:
        return checked_vector(self._observation, self._env.observation_space, self._vectors, self.task)

    def render_frame(self, height: int, width: int | None = None) -> Frame:
        """Return what render() draws, else the observation, resized to [height, width, 3] for people."""
        frame = super().render_frame(height, width)
        return resize_area(self._rendered(), *frame.shape[:2]) if self._is_rendered else frame

    def _observed(self) -> Frame:
        """Return the image in the current observation, [H, W, 3]."""
        return to_rgb(checked_image(self._observation, self._env.observation_space, self._key, self.task))

    def _rendered(self) -> Frame:
        """Return what render() draws, [H, W, 3]."""
        drawn = self._env.render()
        frame = drawn_rgb(drawn)
        if frame is None:
            raise ContractError(f"render: got {brief(drawn)} from {self.task}, expected uint8 [H, W, 3] from 0 to 255")
        return frame

    def close(self) -> None:
        """Close the wrapped environment; an error there is only a warning. This one cannot be used afterwards."""
        self._is_running, self._frame = False, None
        self._close()

    def _close(self) -> None:
        try:
            self._env.close()
        except (Exception, SystemExit) as error:  # nothing depends on it any more
            _warn_once(f"{self.task}: close() raises {quote_error(error)}")


def _open(
    source: str | GymEnv | Callable[[], GymEnv], kwargs: Mapping[str, Any], wrappers: Mapping[str, Any]
) -> tuple[GymEnv, str]:
    """Return the environment of a source, and its name."""
    if isinstance(source, str):
        return make_registered(source, kwargs, wrappers), source
    for name, given in (("kwargs", kwargs), ("wrappers", wrappers)):
        if given:
            raise ValueError(f"{name}: got {', '.join(given)}, expected none for an environment that is not made here")
    env: Any = source
    if callable(source) and not isinstance(source, gymnasium.Env):
        try:
            env = source()
        except (Exception, SystemExit) as error:
            raise ValueError(f"env: got {brief(source)}, which raises {quote_error(error)}") from error
    if not isinstance(env, gymnasium.Env):
        came = type(env).__name__
        expected = f"a gymnasium.Env, a function that makes one, or '{GYM_PREFIX}<id>'"
        raise ValueError(f"env: got {came}, expected {expected}")
    task = env_name(env)
    return Contract(env, task), task


def env_name(env: GymEnv) -> str:
    """Return "gym:" and the id that an environment was made from, or its class if it has no id."""
    return GYM_PREFIX + env.spec.id if env.spec is not None else type(env.unwrapped).__name__


class Parts(NamedTuple):
    """What the agent sees of an observation."""

    image: str | None  # the entry of a Dict, None for the observation itself
    is_observed: bool  # whether there is an image
    vectors: tuple[str | None, ...]  # entries, in order, or None for the observation itself
    vector_dim: int | None  # the numbers in these


def choose_parts(space: Space[Any], key: str | None, vector: bool | None, task: str, has_frames: bool = True) -> Parts:
    """Return the parts of a space that the agent sees; say once which entries of a Dict it does not.

    Without frames an image is there for videos alone. ValueError as for `choose_image`, or if a `vector` is asked for
    and there is none.
    """
    key, is_observed = choose_image(space, key, task)
    is_beside = isinstance(space, Dict) and is_observed
    entries: dict[Any, Space[Any]] = dict(sorted(space.items())) if isinstance(space, Dict) else {None: space}
    vectors = tuple(name for name, part in entries.items() if is_vector(part))
    if vector and not vectors:
        got, expected = ("env.vector: got true", "false") if has_frames else ("env.size: got 0", "frames")
        raise ValueError(f"{got} for {task!r}, expected {expected}: its observations are {one_line(space)}")
    if not (is_beside if vector is None else vector):
        vectors = ()
    seen = (key, *vectors) if has_frames else vectors
    unseen = [name for name in entries if name not in seen]
    if unseen and (is_beside or (isinstance(space, Dict) and not has_frames)):
        _warn_once(f"{task}: the agent sees {', '.join(map(repr, seen))}, but not {', '.join(unseen)}")
    vector_dim = sum(prod(entries[name].shape or ()) for name in vectors) if vectors else None
    return Parts(key, is_observed, vectors, vector_dim)


def choose_image(space: Space[Any], key: str | None, task: str) -> tuple[str | None, bool]:
    """Return the entry of a Dict to use (None: the observation itself), and whether there is an image at all.

    ValueError if `key` is none of its images, or there are several and no key.
    """
    if not isinstance(space, Dict):
        if key is not None:
            raise ValueError(
                f"observation key: got {key!r} for {task!r}, expected none: its observations are not a Dict"
            )
        return None, is_image(space)
    images = [name for name, part in space.items() if is_image(part)]
    if key is not None and key not in images:
        known = ", ".join(images) if images else "none: there is no image"
        raise ValueError(f"observation key: got {key!r} for {task!r}, expected one of its images ({known})")
    if key is None and len(images) > 1:
        raise ValueError(
            f"observation key: got none for {task!r}, expected one of its images ({', '.join(images)}), "
            f"as in '{task}#{images[0]}'"
        )
    if key is None and images:
        key = images[0]
    return key, key is not None


@cache
def _warn_once(line: str) -> None:
    if multiprocessing.parent_process() is None:  # workers would repeat it
        logger.warning("%s", line)
