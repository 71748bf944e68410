"""Where an update's time goes: the operations and GPU kernels that take most of it, by torch's profiler.

    python -m benchmarks.speed.timeline [--preset gpu] [--task walker_walk] [--device cuda] [--precision float32]
        [--compile] [--updates 1] [--rows 20] [--threads 2] [--trace trace.json.gz] [--json out.json]

Updates on one chunk come in rounds, from one solve of gradient balancing to the next. The last --updates of a round are
profiled, by default a whole one. All figures are per update. ms is without the profiler, the mean over a round;
ms_profiled is with it. An operation's milliseconds are its own, without those of the operations it calls. gpu_busy is
the time in kernels over ms: what is missing to 1 is a GPU that waits for the host. --trace writes all events for
chrome://tracing or ui.perfetto.dev.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from agent.config.presets import make_config
from agent.config.settings import Config
from agent.learning.agent import Agent
from benchmarks.harness.command import Command, Report, rows_table
from benchmarks.speed.peer_update import ACTIONS, random_chunk
from benchmarks.speed.throughput import add_device_options, given_settings, wait_for
from replay import Chunk

WARM_UP = 2  # rounds before anything is timed; the first one compiles
REPEATS = 3  # rounds that a median is taken over
NAME = 100  # characters of a kernel's name that are kept

Row = dict[str, Any]


def make_work(config: Config) -> tuple[Callable[[int], float], Agent]:
    """What makes so many updates on a chunk of noise of the preset's size -> milliseconds of one; and the agent."""
    agent = Agent(config, ACTIONS)
    if config.compile:
        agent.compile()
    noise = random_chunk(config.replay.batch_size, config.replay.sample_length)
    chunk = Chunk(**{name: torch.from_numpy(x) for name, x in noise.items()}).to(agent.device)

    def work(updates: int) -> float:
        start = time.perf_counter()
        for _ in range(updates):
            agent.update(chunk)
        wait_for(agent.device)
        return 1000 * (time.perf_counter() - start) / max(1, updates)

    return work, agent


def event_rows(events: Sequence[Any], updates: int) -> tuple[list[Row], list[Row]]:
    """Rows of the operations on the host and of the kernels on the GPU, per update, those that take most first."""
    operations: list[Row] = []
    kernels: list[Row] = []
    for event in events:
        row = {"name": event.key[:NAME], "calls": event.count / updates}
        host, device = (x / 1000 / updates for x in (event.self_cpu_time_total, event.self_device_time_total))
        if event.device_type == DeviceType.CPU:
            operations.append(row | {"host_ms": host, "gpu_ms": device})
        elif not event.is_user_annotation:  # those are spans over kernels that have rows of their own
            kernels.append(row | {"gpu_ms": device})
    operations.sort(key=lambda row: row["gpu_ms"] + row["host_ms"], reverse=True)
    kernels.sort(key=lambda row: row["gpu_ms"], reverse=True)
    return operations, kernels


def measure(given: argparse.Namespace) -> Report:
    """Run everything -> {"settings", "results", "operations", "kernels"}."""
    config = make_config(given.preset, given.task, {"compile": given.compile, **given_settings(given)})
    block = config.update_round
    updates = given.updates if given.updates is not None else block
    if not 1 <= updates <= block:
        raise ValueError(f"updates: got {updates}, expected 1 to {block}, the updates of a round")
    work, agent = make_work(config)
    for _ in range(WARM_UP):
        work(block)
    results = {"ms": median(work(block) for _ in range(REPEATS))}
    work(block - updates)
    on_gpu = agent.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        results["ms_profiled"] = work(updates)
    operations, kernels = event_rows(profiler.key_averages(), updates)
    results["operations"] = sum(row["calls"] for row in operations)
    if on_gpu:
        results["kernels"] = sum(row["calls"] for row in kernels)
        results["gpu_busy"] = sum(row["gpu_ms"] for row in kernels) / results["ms"]
        results["gpu_memory_gb"] = torch.cuda.max_memory_allocated(agent.device) / 1e9
    if given.trace is not None:
        profiler.export_chrome_trace(str(given.trace))
    settings = {"task": config.task, "device": str(agent.device), "precision": config.precision, "updates": updates}
    settings |= {"batch": config.replay.batch_size, "length": config.replay.batch_length}
    rows = {"operations": operations[: given.rows], "kernels": kernels[: given.rows]}
    return {"settings": settings, "results": results, **rows}


def show(console: Console, report: Report) -> None:
    """Print the report as tables."""
    settings = report["settings"]
    sizes = f"batch {settings['batch']} x {settings['length']}, {settings['precision']}"
    console.print(f"Per update, preset {settings['preset']} on {settings['device']}, {sizes}")
    console.print(rows_table([report["results"]]))
    for name in ("operations", "kernels"):
        if report[name]:
            console.print(rows_table(report[name]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    command = Command("speed.timeline", __doc__)
    command.add_argument("--preset", default="cpu")
    command.add_argument("--task", help="default: the preset's own, else cartpole_swingup")
    command.add_number("threads", 2, "CPU threads of torch")
    command.add_argument("--updates", type=int, help="updates that are profiled (default: a round)")
    command.add_number("rows", 20, "operations, and kernels, that are listed")
    command.add_argument("--compile", action="store_true", help="with torch.compile, after minutes of compiling")
    add_device_options(command)
    command.add_file("trace", "file for all events, in Chrome's format; its name ends in .json or .json.gz")
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
