"""GymPixels: any gymnasium environment that has pixels, as the agent plays it."""

import logging
import multiprocessing
from collections.abc import Callable
from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import Dict, Space
from numpy.typing import NDArray

from envs.images import Frame, is_image, resize_area, to_rgb
from envs.pixels import PixelEnv
from envs.registered import make_registered
from envs.spaces import action_map
from envs.tasks import GYM_PREFIX

GymEnv = gymnasium.Env[Any, Any]

logger = logging.getLogger(__name__)

_FPS = 30.0  # of environments that do not say how fast they are
_SEEDS = 2**31  # some simulators take no larger ones


class GymPixels(PixelEnv):
    """A gymnasium environment with frames uint8 [size, size, 3] and actions that the agent can choose.

    Frames are the image in the observation, resized by area whatever its proportions: a uint8 Box, or the image among
    the entries of a Dict. Where there is none they are what render() draws. Actions in [-1, 1]^A are scaled to the
    bounds of a Box of any shape; for a Discrete they are one-hot vectors (`envs.spaces.OneHot`).

    Args:
        source: a task "gym:<id>", "gym:<module>:<id>" or either with "#<observation key>"; an environment; or what
            makes one. One that is given as it is, is closed with this one.
        seed: of the first reset.
        action_repeat: env frames per step.
        size: side of the square frames, pixels.
        observation_key: the entry of a Dict that is seen, where it has several images.
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: no such environment, nothing to see in it, actions of another kind, or an argument out of its range.
        RenderingError: it draws with MuJoCo and no GL backend works.
    """

    def __init__(
        self, source: str | GymEnv | Callable[[], GymEnv], seed: int = 0, action_repeat: int = 1, size: int = 64,
        observation_key: str | None = None, render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        self._env, task = _open(source)
        if isinstance(source, str) and observation_key is None:
            observation_key = source.partition("#")[2] or None
        try:
            self._key, self._is_observed = _choose_image(self._env.observation_space, observation_key, task)
            self._is_rendered = self._try_render(task)
            self._to_actions = action_map(self._env.action_space)
            space = self._to_actions.space
            fps = float(self._env.metadata.get("render_fps") or _FPS)
            super().__init__(task, space.low.size, fps, seed, action_repeat, size, render_mode)
        except BaseException:
            if not isinstance(source, gymnasium.Env):
                self._env.close()
            raise
        self.action_space = space
        self._observation: Any = None

    def _try_render(self, task: str) -> bool:
        """Whether render() draws; tried at once, since what it lacks would otherwise show in the middle of a run."""
        draws = self._env.render_mode == "rgb_array"
        if draws:
            self._env.reset(seed=0)
            try:
                self._rendered()
            except DependencyNotInstalled as error:
                if not self._is_observed:
                    text = " ".join(str(error).split())
                    raise ValueError(f"task: got {task!r}, which lacks something here: {text}") from error
                draws = False
        if not draws and not self._is_observed:
            space = " ".join(str(self._env.observation_space).split())
            raise ValueError(
                f"task: got {task!r} with render_mode {self._env.render_mode!r} and observations {space}, "
                "expected pixels: a uint8 image in the observation, or render_mode 'rgb_array'"
            )
        return draws

    def _begin(self, seed: int) -> None:
        self._observation, _ = self._env.reset(seed=seed % _SEEDS)

    def _advance(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        self._observation, reward, terminated, truncated, _ = self._env.step(self._to_actions(action))
        return float(reward), bool(terminated), bool(truncated)

    def _draw(self, height: int, width: int) -> Frame:
        return resize_area(self._observed() if self._is_observed else self._rendered(), height, width)

    def render_frame(self, height: int, width: int | None = None) -> Frame:
        """Return what render() draws, else the observation, resized to [height, width, 3] for people to look at."""
        frame = super().render_frame(height, width)
        return resize_area(self._rendered(), *frame.shape[:2]) if self._is_rendered else frame

    def _observed(self) -> Frame:
        """The image in the present observation, [H, W, 3]."""
        image, space = self._observation, self._env.observation_space
        if self._key is not None:
            image, space = image[self._key], space[self._key]  # type: ignore[index]
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.shape != space.shape:
            came = f"{image.dtype} {image.shape}"
            raise ValueError(f"observation: got {came} from {self.task}, expected uint8 {space.shape} as in its space")
        return to_rgb(image)

    def _rendered(self) -> Frame:
        """What render() draws, [H, W, 3]."""
        image = np.asarray(self._env.render())
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or image.size == 0:
            raise ValueError(f"render: got {image.dtype} {image.shape} from {self._env}, expected uint8 [H, W, 3]")
        return image

    def close(self) -> None:
        """Close the environment inside; this one cannot be used after that."""
        self._is_running, self._frame = False, None
        self._env.close()


def _open(source: str | GymEnv | Callable[[], GymEnv]) -> tuple[GymEnv, str]:
    """The environment that a GymPixels is asked for, and its name."""
    if isinstance(source, str):
        return make_registered(source.partition("#")[0]), source
    env = source() if callable(source) and not isinstance(source, gymnasium.Env) else source
    if not isinstance(env, gymnasium.Env):
        came = type(env).__name__
        raise ValueError(f"env: got {came}, expected a gymnasium.Env, what makes one, or '{GYM_PREFIX}<id>'")
    return env, GYM_PREFIX + env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def _choose_image(space: Space[Any], key: str | None, task: str) -> tuple[str | None, bool]:
    """The entry of a Dict that is seen (None: the observation itself), and whether there is an image at all."""
    if not isinstance(space, Dict):
        if key is not None:
            raise ValueError(f"observation key: got {key!r} for {task!r}, expected none: its observations are no Dict")
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
    unseen = [name for name in space if name != key]
    if key is not None and unseen:
        _say_once(f"{task}: the agent sees {key!r} and nothing of {', '.join(unseen)}")
    return key, key is not None


@cache
def _say_once(line: str) -> None:
    if multiprocessing.parent_process() is None:  # workers would repeat it
        logger.warning("%s", line)
