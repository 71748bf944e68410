"""Pixel environments with one schema of Steps: DeepMind Control, gymnasium and our own small tasks.

Importing this package registers the gymnasium ids "dmc_pixels/<task>-v0", but imports no simulator.
"""

from envs.adapter import GymPixels
from envs.driver import Driver
from envs.factory import make_env, make_vector_env, register_tasks
from envs.step import Step
from envs.tasks import task_names
from envs.video import VideoWriter

register_tasks()

__all__ = ["Driver", "GymPixels", "Step", "VideoWriter", "make_env", "make_vector_env", "task_names"]
