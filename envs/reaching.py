"""ReachingEnv: move a red disc onto a green one; a task with a known optimum, learned in minutes."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from envs.pixels import Frame, PixelEnv

_SPEED = 0.25  # arena units moved by a full action
_LENGTH = 25  # env frames per episode
_MIN_DISTANCE = 0.7  # between the discs at reset
_REWARD_WIDTH = 0.4
_RADIUS = 0.3
_LINE = -0.5  # height of the discs with one axis; below the middle, so that a flipped frame is noticed
_VIEW = 1.3  # half the side of the visible area: discs at the border are fully visible
_FLOOR, _TARGET, _AGENT = (np.array(c, np.float32) for c in ((30, 30, 40), (60, 200, 80), (220, 50, 50)))


class ReachingEnv(PixelEnv):
    """A red disc (the agent) and a green disc (the target) on a dark floor, at positions in [-1, 1]^axes.

    An action in [-1, 1]^axes moves the agent by 0.25 times the action, x to the right and y up, within the arena. The
    reward is exp(-(d / 0.4)^2) of the distance d after the move, so an episode of 25 frames returns at most 25.
    At reset both positions are uniform, the target at least 0.7 away. Episodes end by truncation.

    Args:
        axes: 1, both discs on a horizontal line below the middle, or 2.
        seed: seed of the first reset.
        action_repeat: env frames per step.
        size: side of the frames, pixels; 0 for vectors alone.
        render_mode: "rgb_array" or None.
        vector: whether the coordinates of both discs come beside the frames, the agent's first.
    """

    def __init__(
        self,
        seed: int = 0,
        action_repeat: int = 1,
        size: int = 64,
        render_mode: str | None = "rgb_array",
        axes: int = 1,
        vector: bool | None = None,
    ) -> None:
        if axes not in (1, 2):
            raise ValueError(f"axes: got {axes}, expected 1 or 2")
        vector_dim = 2 * axes if vector else None
        super().__init__("reaching", axes, 10.0, seed, action_repeat, size, render_mode, vector_dim)
        self.vector = vector
        self._axes = axes
        self._agent = self._target = np.zeros(axes)
        self._frames_left = 0

    def _begin(self, seed: int) -> None:
        self._agent = self.np_random.uniform(-1.0, 1.0, self._axes)
        self._target = self._agent
        while np.linalg.norm(self._target - self._agent) < _MIN_DISTANCE:
            self._target = self.np_random.uniform(-1.0, 1.0, self._axes)
        self._frames_left = _LENGTH

    def _advance(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        self._agent = np.clip(self._agent + _SPEED * action.astype(np.float64), -1.0, 1.0)
        distance = np.linalg.norm(self._target - self._agent)
        self._frames_left -= 1
        return float(np.exp(-((distance / _REWARD_WIDTH) ** 2))), False, self._frames_left == 0

    def expert_action(self) -> NDArray[np.float32]:
        """Return the optimal action [axes]: every coordinate approaches the target as fast as possible.

        It is exactly optimal for action_repeat 1, since no other action makes any coordinate's distance smaller at any
        later time. It uses the state, not the pixels.
        """
        reach = _SPEED * self.action_repeat
        return np.clip((self._target - self._agent) / reach, -1.0, 1.0).astype(np.float32)

    def simulator_state(self) -> dict[str, float]:
        """Return the coordinates of both discs."""
        discs = {"agent": self._agent, "target": self._target}
        return {f"{disc}/{'xy'[i]}": float(at) for disc, place in discs.items() for i, at in enumerate(place)}

    def _draw(self, height: int, width: int) -> Frame:
        scale = min(height, width) / (2 * _VIEW)  # pixels per arena unit
        x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / scale  # [W]
        y = (height / 2 - np.arange(height, dtype=np.float32) - 0.5) / scale  # [H], up
        frame = np.broadcast_to(_FLOOR, (height, width, 3))
        for position, color in ((self._target, _TARGET), (self._agent, _AGENT)):
            height_of = position[1] if self._axes == 2 else _LINE
            distance = np.hypot(x[None, :] - position[0], y[:, None] - height_of)  # [H, W]
            # Edge pixels are covered partially, so that movements of less than a pixel are visible.
            cover = np.clip((_RADIUS - distance) * scale + 0.5, 0.0, 1.0)[..., None]  # [H, W, 1]
            frame = frame + cover * (color - frame)
        return np.rint(frame).astype(np.uint8)


def best_return(seeds: Iterable[int]) -> float:
    """Return the expert's mean return over episodes with these seeds: the optimum at action_repeat 1."""
    env, returns = ReachingEnv(), []
    for seed in seeds:
        env.reset(seed=seed)
        total, is_last = 0.0, False
        while not is_last:
            _, reward, _, is_last, _ = env.step(env.expert_action())
            total += float(reward)
        returns.append(total)
    return float(np.mean(returns))
