"""Crafter (Hafner 2022, arXiv 2109.06780) with Gymnasium's interface: CrafterReward-v1 and CrafterNoReward-v1.

The package crafter has the interface of gym 0.21, whose reset takes no seed. Importing this module registers both ids.
"""

from typing import Any, ClassVar

import crafter
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

_SIZE = 64  # pixels, of the frame that agents are given
_PICTURE = 576  # pixels, of render(): 9 x 9 cells of 64
_LENGTH = 10_000  # steps of an episode at most


class Crafter(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """A world of 64 x 64 cells of which 9 x 7 are seen, 22 achievements to unlock, 17 actions.

    An achievement unlocked for the first time in an episode is worth 1, a point of health won or lost 0.1. An episode
    ends with the player's death; after `length` steps it is truncated.

    Args:
        reward: False pays nothing, for agents that explore by themselves.
        length: steps after which an episode is truncated.
        render_mode: "rgb_array" or None.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(self, reward: bool = True, length: int = _LENGTH, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._arguments = {"size": (_SIZE, _SIZE), "reward": reward, "length": length}
        self._world = crafter.Env(**self._arguments, seed=0)
        self.observation_space = Box(0, 255, (_SIZE, _SIZE, 3), np.uint8)
        self.action_space = Discrete(len(self._world.action_names))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode in a world of its own, which depends on the seed, or on the environment's generator."""
        super().reset(seed=seed)
        chosen = int(self.np_random.integers(2**31 - 1))
        self._world = crafter.Env(**self._arguments, seed=chosen)  # 0.05 s; its reset takes a second
        return self._world.reset(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Act; the info has what crafter tells: inventory, achievements, discount and so on."""
        frame, reward, is_over, info = self._world.step(int(action))
        is_dead = info["discount"] == 0
        return frame, float(reward), is_dead, is_over and not is_dead, info

    def render(self) -> NDArray[np.uint8] | None:
        """Return a larger picture of what the agent sees, or None without a render mode."""
        return None if self.render_mode is None else self._world.render((_PICTURE, _PICTURE))


for name, is_paid in (("CrafterReward-v1", True), ("CrafterNoReward-v1", False)):
    gymnasium.register(id=name, entry_point="envs.crafter:Crafter", kwargs={"reward": is_paid})
