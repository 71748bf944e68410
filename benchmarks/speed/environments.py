"""The driver against bare dm_control: steps and cached-Camera frames a second, with 1 and more environments.

    python -m benchmarks.speed.environments [--task walker_walk] [--render fast] [--workers 2 4] [--json out.json]

"bare" is a loop of dm_control's own step and of one Camera that is kept; "driver" runs one environment in this process,
"driver_N" N worker processes with one each; "bare_N" are N processes that run the bare loop side by side and never wait
for each other: what N workers could reach at most on this machine, which is less than N. All take random actions, and
are timed in turns of --ticks ticks. Software rendering is held to one thread, so that N workers may be N times as fast;
they need N cores, and this process a little.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Self

import numpy as np

from benchmarks.harness.command import Command, Report, show_results
from benchmarks.harness.timing import alternate
from envs import Driver, Step, make_vector_env
from envs.rendering import PROFILES, load_suite
from envs.tasks import SUITE_TASKS, checked_task


def bare_loop(task: str, action_repeat: int, render: str, ticks: int) -> Callable[[], None]:
    """A function that advances one dm_control environment by so many ticks, each with a frame; resets are ticks too."""
    suite = load_suite()
    from dm_control.mujoco.engine import Camera

    env = suite.load(*SUITE_TASKS[task], task_kwargs={"random": 0})
    flags = {}
    if render == "fast":
        env.physics.model.vis.quality.shadowsize = env.physics.model.vis.quality.offsamples = 0
        flags = {"shadow": False, "reflection": False}
    camera = Camera(env.physics, 64, 64, 2 if task.startswith("quadruped") else 0)
    spec, rng = env.action_spec(), np.random.default_rng(0)
    step = env.reset()

    def loop() -> None:
        nonlocal step
        for _ in range(ticks):
            if step.last():
                step = env.reset()
            else:
                action = rng.uniform(spec.minimum, spec.maximum)
                for _ in range(action_repeat):
                    step = env.step(action)
                    if step.last():
                        break
            camera.render(render_flag_overrides=flags).copy()

    return loop


class SideBySide:
    """Bare loops in processes of their own. A call lets each make so many ticks, and returns when all have."""

    def __init__(self, number: int, task: str, action_repeat: int, render: str, ticks: int) -> None:
        """Start the processes; they wait."""
        context = multiprocessing.get_context("forkserver")
        self.pipes, theirs = zip(*(context.Pipe() for _ in range(number)), strict=True)
        arguments = (task, action_repeat, render, ticks)
        self.processes = [context.Process(target=serve_bare_loop, args=(pipe, *arguments)) for pipe in theirs]
        for process, pipe in zip(self.processes, theirs, strict=True):
            process.start()
            pipe.close()

    def __call__(self) -> None:
        for pipe in self.pipes:
            pipe.send(True)
        for pipe in self.pipes:
            pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            process.kill()
            process.join()
            pipe.close()


def serve_bare_loop(pipe: Connection, task: str, action_repeat: int, render: str, ticks: int) -> None:
    """Run a bare loop whenever the pipe asks for it, until it is closed or this process killed."""
    loop = bare_loop(task, action_repeat, render, ticks)
    while pipe.recv():
        loop()
        pipe.send(True)


def driver_loop(driver: Driver, ticks: int) -> Callable[[], None]:
    """A function that ticks the driver with random actions."""
    rng = np.random.default_rng(0)

    def policy(step: Step) -> np.ndarray:
        return rng.uniform(-1, 1, step.action.shape).astype(np.float32)

    def loop() -> None:
        for _ in range(ticks):
            driver.tick(policy)

    return loop


def measure(given: argparse.Namespace) -> Report:
    """Frames per second of each, and how they compare with bare."""
    task, repeat = checked_task(given.task), given.action_repeat
    if task not in SUITE_TASKS:
        raise ValueError(f"task: got {task!r}, expected a task of the DeepMind Control suite")
    if any(number < 2 for number in given.workers):
        raise ValueError(f"workers: got {min(given.workers)}, expected 2 or more (one runs in this process)")
    with ExitStack() as stack:
        works: dict[str, Callable[[], None]] = {"bare": bare_loop(task, repeat, given.render, given.ticks)}
        for number in (1, *given.workers):
            env = make_vector_env(task, number, action_repeat=repeat, render=given.render)
            name = "driver" if number == 1 else f"driver_{number}"
            works[name] = driver_loop(stack.enter_context(Driver(env)), given.ticks)
        for number in given.workers:
            crowd = SideBySide(number, task, repeat, given.render, given.ticks)
            works[f"bare_{number}"] = stack.enter_context(crowd)
        seconds = alternate(works, given.repeats)
    frames = {"bare": 1, "driver": 1} | {f"{kind}_{n}": n for kind in ("bare", "driver") for n in given.workers}
    rates = {name: frames[name] * given.ticks / seconds[name] for name in works}
    found = {f"{name}_frames_per_second": rate for name, rate in rates.items()}
    found |= {f"{name}_over_bare": rate / rates["bare"] for name, rate in rates.items() if name != "bare"}
    return {"results": found}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    os.environ["LP_NUM_THREADS"] = "0"  # Mesa's software renderer draws in the thread that asks
    command = Command("speed.environments", __doc__)
    command.set_defaults(threads=1)
    command.add_argument("--task", default="cartpole_swingup")
    command.add_number("action_repeat", 2)
    command.add_argument("--render", choices=PROFILES, default="fast")
    command.add_argument("--workers", type=int, nargs="*", default=[2], help="numbers of worker processes")
    command.add_number("ticks", 250, "of one turn")
    command.add_number("repeats", 11, "turns of each")
    return command.run(arguments, measure, show_results)


if __name__ == "__main__":
    sys.exit(main())
