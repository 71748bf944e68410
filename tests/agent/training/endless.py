"""Environments without an end of their own, registered with gymnasium as "gym:endless:Endless-v0"."""

import gymnasium

from envs.counting import CountingEnv


class Endless(CountingEnv):
    """Counts up to 65,535 frames: longer than any test."""

    def __init__(self, render_mode=None):
        super().__init__(length=2**16 - 1, render_mode="rgb_array")


gymnasium.register("Endless-v0", Endless)
TASK = "gym:endless:Endless-v0"
