"""How fast a preset runs on this machine: updates, environments with and without the agent, replay.

    python -m benchmarks.speed.throughput [--preset cpu] [--task walker_walk] [--threads 2] [--compile]
        [--device cuda] [--precision float32] [--json out.json]

Every rate is the median of `REPEATS` slices of time; the table goes to the terminal, the same figures into the JSON.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from agent.config.presets import make_config
from agent.config.settings import Config
from agent.learning.agent import Agent
from benchmarks.harness.command import Command, Report, positive
from envs import Driver, Step, make_vector_env
from replay import Chunk, Episode, ReplayBuffer

REPEATS = 5
REPLAY_ROWS = 10_000  # 123 MB of frames: more than a CPU cache holds
LONG_BATCH = (16, 64)  # the batch and length of DEPENDENCIES' comparison, whatever the preset samples


class Stopwatch:
    """Adds up the seconds spent in one method of one object, the device's own work included."""

    def __init__(self, owner: Any, method: str, device: torch.device) -> None:
        self.seconds = 0.0
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            wait_for(device)
            start = time.perf_counter()
            result = inner(*args, **kwargs)
            wait_for(device)
            self.seconds += time.perf_counter() - start
            return result

        setattr(owner, method, timed)


def wait_for(device: torch.device) -> None:
    """Return when the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_rate(work: Callable[[], int], seconds: float) -> float:
    """Median over slices of (sum of what `work` returns) per second; one call beforehand warms up.

    A slice ends with the call that exceeds its share of `seconds`, so each holds at least one.
    """
    work()
    rates = []
    for _ in range(REPEATS):
        amount, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds / REPEATS or amount == 0:
            amount += work()
        rates.append(amount / elapsed)
    return median(rates)


def random_episode(length: int, action_dim: int, seed: int = 0) -> Episode:
    """One episode of noise: frames, rewards and actions uniform, a time-limit end."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)
    reward = rng.uniform(0, 1, length).astype(np.float32)
    action = rng.uniform(-1, 1, (length, action_dim)).astype(np.float32)
    is_first, is_last = np.zeros(length, bool), np.zeros(length, bool)
    is_first[0], is_last[-1] = True, True
    reward[0], action[-1] = 0.0, 0.0
    return Episode(image, reward, is_first, is_last, np.zeros(length, bool), action)


def filled_replay(rows: int, action_dim: int) -> ReplayBuffer:
    """A full replay of `rows` rows in episodes of at most 500."""
    buffer = ReplayBuffer(capacity_steps=rows, action_dim=action_dim)
    episode = random_episode(min(500, rows), action_dim)
    while len(buffer) < rows:
        buffer.add_episode(episode)
    return buffer


def measure_replay(config: Config, buffer: ReplayBuffer, seconds: float) -> dict[str, float]:
    """Batches per second of `sample`, at the preset's batch and at 16 x 64."""

    def sampling(batch: int, length: int) -> Callable[[], int]:
        def work() -> int:
            buffer.sample(batch, length)
            return 1

        return work

    preset = (config.replay.batch_size, config.replay.sample_length)
    return {
        "replay_batches_per_second": median_rate(sampling(*preset), seconds),
        "replay_batches_per_second_16x64": median_rate(sampling(*LONG_BATCH), seconds),
    }


def measure_updates(config: Config, agent: Agent, chunk: Chunk, seconds: float) -> dict[str, float]:
    """Updates per second on one chunk, and the milliseconds of an update's two halves.

    Updates are timed in rounds: only one in a round solves for the gradients' rotation.
    """
    block = config.update_round
    model = Stopwatch(agent.model_learner, "update", agent.device)
    behavior = Stopwatch(agent.behavior_learner, "update", agent.device)
    halves: list[tuple[float, float]] = []

    def work() -> int:
        model.seconds = behavior.seconds = 0.0
        for _ in range(block):
            agent.update(chunk)
        wait_for(agent.device)
        halves.append((1000 * model.seconds / block, 1000 * behavior.seconds / block))
        return block

    rate = median_rate(work, seconds)
    model_ms, behavior_ms = (median(part) for part in zip(*halves[1:], strict=True))  # the first one warmed up
    return {
        "updates_per_second": rate,
        "trained_frames_per_second": rate * chunk.reward.numel(),
        "model_update_ms": model_ms,
        "behavior_update_ms": behavior_ms,
    }


def measure_driver(config: Config, driver: Driver, agent: Agent, seconds: float) -> dict[str, float]:
    """env_frames per second of one environment, with random actions and with the agent choosing them."""
    rng = np.random.default_rng(config.seed)
    memory = agent.initial_state(driver.num_envs)

    def random_policy(step: Step) -> np.ndarray:
        return rng.uniform(-1, 1, step.action.shape).astype(np.float32)

    def agent_policy(step: Step) -> np.ndarray:
        nonlocal memory
        actions, memory = agent.act(step.image, step.is_first, memory, "collect", step.vector)
        return actions

    def ticking(policy: Callable[[Step], np.ndarray]) -> Callable[[], int]:
        # A row of a reset brings no env_frames, but its time counts: that is what a run pays.
        return lambda: config.env.action_repeat * int((~driver.tick(policy).is_first).sum())

    return {
        "env_frames_per_second_random": median_rate(ticking(random_policy), seconds),
        "env_frames_per_second_agent": median_rate(ticking(agent_policy), seconds),
    }


def count_parameters(agent: Agent) -> dict[str, int]:
    """Trainable parameters of every part of world model and actor-critic that has some, and their total."""
    parts: list[tuple[str, nn.Module]] = [*agent.model.named_children(), *agent.actor_critic.named_children()]
    counts = {name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in parts}
    return {name: count for name, count in counts.items() if count > 0} | {"total": agent.num_parameters}


def measure(given: argparse.Namespace) -> Report:
    """Run all measurements -> {"settings", "results", "parameters"}."""
    positive("seconds", given.seconds)
    config = make_config(given.preset, given.task, {"compile": given.compile, **given_settings(given)})
    env = make_vector_env(config.task, 1, seed=config.seed, **config.env.options())
    with Driver(env) as driver:
        agent = Agent(config, driver.action_dim)
        if config.compile:
            agent.compile()
        results = measure_driver(config, driver, agent, given.seconds)
    rows = max(min(REPLAY_ROWS, config.replay.capacity_steps), *LONG_BATCH, config.replay.sample_length)
    buffer = filled_replay(rows, agent.action_dim)
    results |= measure_replay(config, buffer, given.seconds)
    chunk = buffer.sample(config.replay.batch_size, config.replay.sample_length)
    results |= measure_updates(config, agent, chunk, given.seconds)
    settings = {"task": config.task, "device": str(agent.device), "precision": config.precision}
    settings |= {"env": asdict(config.env), "replay": asdict(config.replay)}
    return {
        "settings": settings,
        "results": {name: float(value) for name, value in results.items()},
        "parameters": count_parameters(agent),
    }


def add_device_options(command: Command) -> None:
    """Add --device and --precision, which are the preset's where they are not given."""
    command.add_argument("--device", help="auto, cpu or cuda (default: the preset's)")
    command.add_argument("--precision", choices=["float32", "bfloat16"], help="default: the preset's")


def given_settings(given: argparse.Namespace) -> dict[str, str]:
    """The settings of `add_device_options` that were given."""
    return {name: getattr(given, name) for name in ("device", "precision") if getattr(given, name) is not None}


def show(console: Console, report: Report) -> None:
    """Print the report as tables."""
    settings, replay, env = report["settings"], report["settings"]["replay"], report["settings"]["env"]
    title = f"{settings['task']}, preset {settings['preset']} on {settings['device']}"
    sizes = f"batch {replay['batch_size']} x {replay['batch_length']}, action repeat {env['action_repeat']}"
    table = Table("measured", "value", title=f"{title}\n{sizes}, render {env['render']}")
    for name, value in report["results"].items():
        table.add_row(name, f"{value:,.1f}")
    parameters = Table("parameters of", "number")
    for name, count in report["parameters"].items():
        parameters.add_row(name, f"{count:,}")
    console.print(table, parameters)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    command = Command("speed.throughput", __doc__)
    command.add_argument("--preset", default="cpu")
    command.add_argument("--task", help="default: the preset's own, else cartpole_swingup")
    command.add_number("threads", 2, "CPU threads of torch")
    command.add_argument("--seconds", type=float, default=10.0, help="time for each figure")
    command.add_argument("--compile", action="store_true", help="with torch.compile, after minutes of compiling")
    add_device_options(command)
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
