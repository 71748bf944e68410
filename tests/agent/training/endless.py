"""An environment that never ends by itself; importing this module registers it with gymnasium."""

import gymnasium

from envs.counting import CountingEnv


class Endless(CountingEnv):
    """Counts up to 65,535 frames: longer than any test."""

    def __init__(self, render_mode=None):
        super().__init__(length=2**16 - 1, render_mode="rgb_array")


gymnasium.register("Endless-v0", Endless)
TASK = "gym:tests.agent.training.endless:Endless-v0"
