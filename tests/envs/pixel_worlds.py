"""Small gymnasium environments to adapt: importing this module registers them, as a user's module would."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete


def image_space(*shape):
    return Box(0, 255, shape, np.uint8)


class World(gymnasium.Env):
    """Counts its steps to 5; a picture's every pixel is 10 times the count plus what the reset's seed drew (0 to 9)."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"], "render_fps": 12}

    def __init__(self, observation_space=None, action_space=None, terminates=True, render_mode=None):
        self.observation_space = observation_space if observation_space is not None else image_space(16, 16, 3)
        self.action_space = action_space if action_space is not None else Box(-1, 1, (2,), np.float32)
        self.terminates, self.render_mode = terminates, render_mode
        self.actions, self.seeds = [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.count, self.base = 0, int(self.np_random.integers(10))
        return self.observe(self.observation_space), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.actions.append(action)
        self.count += 1
        is_over = self.count == 5
        flags = (is_over and self.terminates, is_over and not self.terminates)
        return self.observe(self.observation_space), float(self.count), *flags, {}

    def observe(self, space):
        if isinstance(space, Dict):
            return {name: self.observe(part) for name, part in space.items()}
        if isinstance(space, Box) and space.dtype == np.uint8:
            return np.full(space.shape, 10 * self.count + self.base, np.uint8)
        return space.sample()

    def render(self):
        return np.full((30, 40, 3), 200 + self.count, np.uint8) if self.render_mode == "rgb_array" else None


class Blind(World):
    """Cannot be drawn, and says so."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}


class NeedsPackage(World):
    """Says what it lacks, as gymnasium's own environments do."""

    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed,\nrun `pip install pygame`")


VECTOR = Box(-np.inf, np.inf, (4,), np.float32)
TWO_EYES = Dict(left=image_space(16, 16, 3), right=image_space(8, 9), pose=VECTOR)

for name, world, settings in (
    ("Seen-v0", World, {}),
    ("Drawn-v0", World, {"observation_space": VECTOR, "action_space": Discrete(3, start=5)}),
    ("Silent-v0", Blind, {}),
    ("Blind-v0", Blind, {"observation_space": VECTOR}),
    ("Lacking-v0", NeedsPackage, {"observation_space": VECTOR}),
    ("SeenLacking-v0", NeedsPackage, {}),
    ("Multi-v0", World, {"action_space": MultiDiscrete([3, 2])}),
    ("TwoEyes-v0", World, {"observation_space": TWO_EYES}),
):
    gymnasium.register(f"pixel_worlds/{name}", world, kwargs=settings)
