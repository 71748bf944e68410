"""PixelEnv: the base class of our environments, which only define how they begin, advance and draw."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Dict, Space
from numpy.typing import NDArray

from envs.checks import checked_action, checked_count

Frame = NDArray[np.uint8]
Vector = NDArray[np.float32]
Observation = NDArray[Any] | dict[str, NDArray[Any]]  # a Frame, a Vector, or {"image": frame, "vector": vector}
IS_CUT = "is_cut"  # in the info of a step that ended its episode at `max_steps`


class EpisodeStart(NamedTuple):
    """The start of an environment: episode number `episode` of its seed, after its first `actions`.

    If `actions` is None the episode has not begun: the next step begins it, as after another episode's end.
    """

    episode: int
    actions: NDArray[np.float32] | None  # [L, A]


def observation_space(size: int, vector_dim: int | None) -> Space[Any]:
    """Return the space of the observations of a PixelEnv."""
    frames = Box(0, 255, (size, size, 3), np.uint8)
    if vector_dim is None:
        return frames
    vectors = Box(-np.inf, np.inf, (vector_dim,), np.float32)
    return vectors if size == 0 else Dict(image=frames, vector=vectors)


def split(observation: Observation) -> tuple[Frame, Vector | None]:
    """Return the frame and the vector of an observation, or those of a batch; None for frames alone.

    A vector alone has a frame of size 0, so that rows have the same fields everywhere.
    """
    if isinstance(observation, Mapping):
        return observation["image"], observation["vector"]
    if observation.dtype == np.uint8:
        return observation, None
    return np.zeros((*observation.shape[:-1], 0, 0, 3), np.uint8), observation


def joined(frame: Frame, vector: Vector | None) -> Observation:
    """Return the observation of a frame and a vector, or of a batch of them: the inverse of `split`."""
    if vector is None:
        return frame
    return {"image": frame, "vector": vector} if frame.size > 0 else vector


class PixelEnv(gymnasium.Env[Observation, NDArray[np.float32]]):
    """A gymnasium environment with frames uint8 [size, size, 3] and actions float32 [A] in [-1, 1].

    With a `vector_dim` V, observations are {"image": frame, "vector": float32 [V]}, with size 0 the vector alone.

    One step advances `action_repeat` times with the same action, sums the rewards, stops at an episode's end, and
    draws once. Episodes are numbered from 0 since the last seed, the constructor's or a reset's, and each has its own
    seed, derived from that seed and its number. An episode is thus a function of seed, number and actions, so that a
    stopped run can resume in the middle of one (`begin_at`).

    `max_steps`, which the caller may set, truncates an episode after that many steps, with IS_CUT in the info. The
    default None leaves the end to the environment.

    Raises:
        ValueError: action_repeat below 1, a negative size or seed, size 0 without a vector, an unknown render_mode, an
            action of the wrong shape or not finite.
        gymnasium.error.ResetNeeded: a step before the first reset or after an episode's end.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}  # type: ignore[misc]
    render_profile = "standard"
    camera: int | str | None = None
    vector: bool | None = None  # as asked for

    def __init__(
        self,
        task: str,
        action_dim: int,
        frame_rate: float,
        seed: int,
        action_repeat: int,
        size: int,
        render_mode: str | None,
        vector_dim: int | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode: got {render_mode!r}, expected 'rgb_array' or None")
        self.task = task
        self.action_repeat = checked_count("action_repeat", action_repeat, 1)
        self.size = checked_count("size", size, 0)
        if size == 0 and vector_dim is None:
            raise ValueError(
                f"size: got 0 for {task!r} without a vector, expected frames, vectors (vector=True) or both"
            )
        self.render_mode = render_mode
        fps = frame_rate / self.action_repeat  # frames per second of the simulated world
        self.metadata = {**type(self).metadata, "render_fps": fps}  # type: ignore[misc]
        self.vector_dim = vector_dim
        self.observation_space = observation_space(self.size, vector_dim)
        self.action_space = Box(-1.0, 1.0, (action_dim,), np.float32)
        self._action_shape = (action_dim,)
        self._seed = checked_count("seed", seed, 0)
        self.episode = -1  # number of the current episode
        self._next_episode = 0
        self._start: EpisodeStart | None = None
        self._begins_at_step = False
        self._frame: Frame | None = None
        self._is_running = False
        self.max_steps: int | None = None
        self._steps = 0  # of the current episode

    @property
    def made_with(self) -> dict[str, Any]:
        """The arguments with which `make_env` makes such an environment, without its kwargs and wrappers."""
        drawn = {"render": self.render_profile, "camera": self.camera, "vector": self.vector}
        return {"task": self.task, "action_repeat": self.action_repeat, "size": self.size} | drawn

    @abstractmethod
    def _begin(self, seed: int) -> None:
        """Start an episode whose randomness depends on `seed` alone; self.episode is its number."""

    @abstractmethod
    def _advance(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        """Advance one control step with an action [A] in [-1, 1] and return reward, terminated, truncated."""

    @abstractmethod
    def _draw(self, height: int, width: int) -> Frame:
        """Return the current state as a new frame [height, width, 3]."""

    def _measure(self) -> NDArray[Any]:
        """Return the vector of the current state, numbers [V]: here those of `simulator_state`, in its order."""
        return np.array(list(self.simulator_state().values()))

    def simulator_state(self) -> dict[str, float]:
        """Return the state behind the current frame, number by name, for analysis; empty where it is not known."""
        return {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin the next episode, or number 0 of a seed, and return its first observation and an info."""
        if seed is not None:
            self._seed, self._next_episode, self._start = checked_count("seed", seed, 0), 0, None
        start, self._start = self._start, None
        if start is not None:
            self._next_episode = start.episode
            if start.actions is None:
                self._begins_at_step = True
                empty = np.zeros((self.size, self.size, 3), np.uint8)
                return self._beside(empty, np.zeros(self.vector_dim or 0)), {}
        self._begins_at_step = False
        self._begin_episode()
        if start is not None and start.actions is not None:
            self._take(start.actions)
        return self._observe(), {}

    def begin_at(self, start: EpisodeStart) -> None:
        """Let the next reset without a seed lead to `start`, without rendering on the way.

        That reset returns the frame after the last action. If the episode has not begun, it returns an empty frame, and
        the next step begins the episode, whatever its action.
        """
        checked_count("episode", start.episode, 0)
        self._start = start

    def _begin_episode(self) -> None:
        self.episode, self._next_episode = self._next_episode, self._next_episode + 1
        seed = int(np.random.SeedSequence((self._seed, self.episode)).generate_state(1)[0])
        super().reset(seed=seed)
        self._begin(seed)
        self._is_running, self._steps = True, 0

    def _take(self, actions: NDArray[np.float32]) -> None:
        """Advance a running episode by actions [L, A]; ValueError if it ends before they do."""
        for number, action in enumerate(actions):
            _, terminated, truncated = self._advance_repeatedly(checked_action(action, self._action_shape))
            if terminated or truncated:
                raise ValueError(
                    f"start: episode {self.episode} of {self.task} ended after {number + 1} actions, "
                    f"expected more than {len(actions)}"
                )

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action [A] and return observation, summed reward, terminated, truncated, info."""
        if self._begins_at_step:
            observation, info = self.reset()
            return observation, 0.0, False, False, info
        if not self._is_running:
            raise ResetNeeded(f"{self.task}: step() needs a reset() first")
        total, terminated, truncated = self._advance_repeatedly(checked_action(action, self._action_shape))
        observation = self._observe()
        if self.max_steps is None or self._steps < self.max_steps or terminated or truncated:
            return observation, total, terminated, truncated, {}
        self._is_running = False
        return observation, total, False, True, {IS_CUT: True}

    def _observe(self) -> Observation:
        """Draw the current state, unless frames have size 0; return the frame, or what `_beside` makes of it."""
        self._frame = self._draw(self.size, self.size) if self.size > 0 else np.zeros((0, 0, 3), np.uint8)
        return self._frame if self.vector_dim is None else self._beside(self._frame, self._measure())

    def _beside(self, frame: Frame, numbers: NDArray[Any]) -> Observation:
        """Return the observation of a frame and of numbers [V]; ValueError for a vector of another length, or NaN."""
        if self.vector_dim is None:
            return frame
        with np.errstate(over="ignore"):
            vector = numbers.astype(np.float32)
        if vector.shape != (self.vector_dim,):
            raise ValueError(f"vector: got shape {vector.shape} from {self.task}, expected {(self.vector_dim,)}")
        if not np.isfinite(vector).all():
            index = int(np.flatnonzero(~np.isfinite(vector))[0])
            raise ValueError(f"vector: got {vector[index]} at index {index} from {self.task}, expected finite numbers")
        return joined(frame, vector)

    def _advance_repeatedly(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        """Advance up to `action_repeat` control steps and return summed reward, terminated, truncated."""
        total, terminated, truncated = 0.0, False, False
        self._steps += 1
        for _ in range(self.action_repeat):
            reward, terminated, truncated = self._advance(action)
            total += reward
            if terminated or truncated:
                self._is_running = False
                break
        return total, terminated, truncated

    def render(self) -> Frame | None:
        """Return a copy of the frame that the agent last saw, one of 64 pixels if it sees none; None without a mode."""
        if self.render_mode is None:
            return None
        if self._frame is None:
            raise ResetNeeded(f"{self.task}: render() needs a reset() first")
        return self._frame.copy() if self.size > 0 else self._draw(64, 64)

    def render_frame(self, height: int, width: int | None = None) -> Frame:
        """Return the current state as a frame [height, width, 3] for people; width defaults to height.

        This does not affect the frames that the agent sees.
        """
        if self._frame is None:
            raise ResetNeeded(f"{self.task}: render_frame() needs a reset() first")
        height = checked_count("height", height, 1)
        return self._draw(height, checked_count("width", width, 1) if width is not None else height)
