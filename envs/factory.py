"""make_env and make_vector_env: environments from a task's name."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from envs.adapter import GymPixels
from envs.checks import check_arguments, checked_count
from envs.counting import CountingEnv
from envs.dmc import DMCPixels
from envs.pixels import EpisodeStart, PixelEnv
from envs.reaching import ReachingEnv
from envs.rendering import PROFILES, choose_gl_backend
from envs.tasks import GYM_PREFIX, OWN_TASKS, SUITE_TASKS, base_task, checked_task, task_arguments, task_names
from envs.workers import end_with_parent, make_workers, stand_apart


def register_tasks() -> None:
    """Register "dmc_pixels/<task>-v0" with gymnasium for every task of the suite, distracting ones too, but once."""
    for task in (name for name in task_names() if name not in OWN_TASKS):
        name = f"dmc_pixels/{task}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(id=name, entry_point="envs.dmc:DMCPixels", kwargs={"task": task})


def make_env(
    task: str,
    seed: int = 0,
    action_repeat: int | None = None,
    size: int = 64,
    render: str = "standard",
    worker: int = 0,
    camera: int | str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    wrappers: Mapping[str, Any] | None = None,
    vector: bool | None = None,
    **options: Any,
) -> PixelEnv:
    """Make one environment with frames uint8 [size, size, 3] and actions float32 [A] in [-1, 1].

    Args:
        task: a name of task_names(), or "gym:<id>" for an id registered with gymnasium; discrete actions become one-hot
            vectors. Arguments may follow, "gym:<id>?difficulty=1&mode=1".
        seed: seed of the first reset.
        action_repeat: env frames per step; None is 2 for the suite and 1 for all others.
        size: side of the frames, pixels; 0 for no frames: observations are then vectors float32 [V] alone.
        render: render profile of the suite's tasks, "standard" or "fast"; ignored by all others.
        worker: the number that "counting" writes into its frames.
        camera: number or name of a camera of the suite's model; None is Dreamer's.
        kwargs: further arguments of the environment itself.
        wrappers: names and arguments of wrappers of Gymnasium, for "gym:<id>".
        vector: whether a vector comes beside the frames, in observations {"image": frame, "vector": float32 [V]}. None:
            where a "gym:<id>" has a Dict of an image and vectors, and with size 0.
        options: further arguments of the task's class (DMCPixels, CountingEnv, ReachingEnv, GymPixels).

    Raises:
        ValueError: an unknown task (the nearest known one is named) or an argument out of its range.
        RenderingError: the task needs a GL backend, and none works.
    """
    checked_task(task)
    if render not in PROFILES:
        raise ValueError(f"render: got {render!r}, expected one of {', '.join(PROFILES)}")
    name = base_task(task)
    if camera is not None and name not in SUITE_TASKS:
        raise ValueError(f"env.camera: got {camera!r} for {task!r}, expected none: only the suite's tasks have cameras")
    if wrappers and not name.startswith(GYM_PREFIX):
        got = f"got {', '.join(wrappers)} for {task!r}"
        raise ValueError(f"env.wrappers: {got}, expected none: only tasks '{GYM_PREFIX}<id>' have wrappers")
    vector = True if size == 0 and vector is None else vector
    if name in SUITE_TASKS:
        repeat = action_repeat if action_repeat is not None else 2
        options = {"camera_id": camera, "vector": vector, **options}
        return DMCPixels(task, seed, repeat, size, render, kwargs=kwargs, **options)
    repeat = action_repeat if action_repeat is not None else 1
    if name.startswith(GYM_PREFIX):
        options = {"vector": vector, **options}
        return GymPixels(task, seed, repeat, size, kwargs=kwargs, wrappers=wrappers, **options)
    decided: dict[str, Any] = {"seed": seed, "action_repeat": repeat, "size": size, "vector": vector}
    decided |= {"worker": worker} if name == "counting" else {}
    arguments, kind = task_arguments(task, kwargs), CountingEnv if name == "counting" else ReachingEnv
    check_arguments(arguments, kind, (*decided, "render_mode"), name)
    return kind(**decided, **arguments, **options)


def make_vector_env(
    task: str,
    num_envs: int = 1,
    seed: int = 0,
    action_repeat: int | None = None,
    size: int = 64,
    render: str = "standard",
    starts: Sequence[EpisodeStart] | None = None,
    on_start: Callable[[], None] | None = None,
    **options: Any,
) -> SyncVectorEnv | AsyncVectorEnv:
    """Make `num_envs` environments of one task, each with its own seed, that reset on the step after an episode's end.

    One environment runs in this process; several run in one process each, started through a forkserver, so a script
    that makes them needs `if __name__ == "__main__":`. `starts` lets each one begin elsewhere than at its first
    episode; `on_start` is called first in each of those processes. The other arguments and errors are make_env's.
    """
    checked_task(task)
    num_envs = checked_count("num_envs", num_envs, 1)
    seed = checked_count("seed", seed, 0)
    seeds = [int(np.random.SeedSequence((seed, i)).generate_state(1)[0]) for i in range(num_envs)]
    if starts is not None and len(starts) != num_envs:
        raise ValueError(f"starts: got {len(starts)}, expected {num_envs}, one for each environment")
    is_suite = base_task(task) in SUITE_TASKS
    backend = choose_gl_backend() if num_envs > 1 and is_suite else None  # once, not in every worker
    make = partial(make_env, task, action_repeat=action_repeat, size=size, render=render, **options)
    makers = [
        partial(_make, partial(make, seed=seeds[i], worker=i), backend, None if starts is None else starts[i], on_start)
        for i in range(num_envs)
    ]
    if num_envs == 1:
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    return make_workers(makers)


def _make(
    make: "partial[PixelEnv]",
    backend: str | None,
    start: EpisodeStart | None,
    on_start: Callable[[], None] | None = None,
) -> PixelEnv:
    """Make an environment, here or in a worker process (gymnasium also makes a worker's here, for its spaces)."""
    if backend is not None:
        os.environ.setdefault("MUJOCO_GL", backend)  # a forkserver keeps its initial environment variables
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and closes its workers
        stand_apart()
        end_with_parent()
        if on_start is not None:
            on_start()
    env = make()
    if start is not None:
        env.begin_at(start)
    return env
