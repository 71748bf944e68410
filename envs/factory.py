"""make_env and make_vector_env: from a task's name to environments that are ready to run."""

import multiprocessing
import os
import signal
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from envs.checks import checked_count
from envs.counting import CountingEnv
from envs.dmc import DMCPixels
from envs.pixels import PixelEnv
from envs.reaching import ReachingEnv
from envs.rendering import PROFILES, choose_gl_backend
from envs.tasks import SUITE_TASKS, checked_task


def register_tasks() -> None:
    """Register "dmc_pixels/<task>-v0" with gymnasium for every task of the suite; a second call changes nothing."""
    for task in SUITE_TASKS:
        name = f"dmc_pixels/{task}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point="envs.dmc:DMCPixels", kwargs={"task": task})


def make_env(
    task: str, seed: int = 0, action_repeat: int | None = None, size: int = 64, render: str = "standard",
    worker: int = 0, **options: Any,
) -> PixelEnv:  # fmt: skip
    """Make one environment with frames uint8 [size, size, 3] and actions float32 [A] in [-1, 1].

    Args:
        task: a name of task_names().
        seed: of the first reset.
        action_repeat: env frames per step; None is 2 for the suite and 1 for our own tasks.
        size: side of the frames, pixels.
        render: render profile of the suite's tasks, "standard" or "fast"; our own draw one way only.
        worker: the number that "counting" writes into its frames.
        options: further arguments of the task's class (DMCPixels, CountingEnv, ReachingEnv).

    Raises:
        ValueError: an unknown task (the nearest known one is named) or an argument out of its range.
        RenderingError: the task needs a GL backend and none works.
    """
    checked_task(task)
    if render not in PROFILES:
        raise ValueError(f"render: got {render!r}, expected one of {', '.join(PROFILES)}")
    if task in SUITE_TASKS:
        return DMCPixels(task, seed, action_repeat if action_repeat is not None else 2, size, render, **options)
    repeat = action_repeat if action_repeat is not None else 1
    if task == "counting":
        return CountingEnv(seed, repeat, size, worker, **options)
    return ReachingEnv(seed, repeat, size, **options)


def make_vector_env(
    task: str, num_envs: int = 1, seed: int = 0, action_repeat: int | None = None, size: int = 64,
    render: str = "standard", **options: Any,
) -> VectorEnv:  # fmt: skip
    """Make `num_envs` environments of one task, each with its own seed, that reset on the step after an episode's end.

    One environment runs in this process; more run in one process each, started through a forkserver, so a script
    that asks for them needs its `if __name__ == "__main__":`. Arguments and errors are those of make_env.
    """
    checked_task(task)
    num_envs = checked_count("num_envs", num_envs, 1)
    seed = checked_count("seed", seed, 0)
    seeds = [int(np.random.SeedSequence((seed, i)).generate_state(1)[0]) for i in range(num_envs)]
    make = partial(make_env, task, action_repeat=action_repeat, size=size, render=render, **options)
    if num_envs == 1:
        return SyncVectorEnv([partial(make, seed=seeds[0])], autoreset_mode=AutoresetMode.NEXT_STEP)
    backend = choose_gl_backend() if task in SUITE_TASKS else None  # once, not in every worker
    makers = [partial(_make_in_worker, backend, partial(make, seed=seeds[i], worker=i)) for i in range(num_envs)]
    return AsyncVectorEnv(makers, context="forkserver", shared_memory=True, autoreset_mode=AutoresetMode.NEXT_STEP)


def _make_in_worker(backend: str | None, make: "partial[PixelEnv]") -> PixelEnv:
    """Make an environment in a worker process (gymnasium makes one in the parent too, for its spaces)."""
    if backend is not None:
        os.environ.setdefault("MUJOCO_GL", backend)  # a forkserver keeps the environment it was started with
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes its workers
    return make()
