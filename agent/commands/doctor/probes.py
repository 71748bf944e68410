"""The doctor's measurements with torch: each function runs in its own process and prints findings as JSON."""

import json
import math
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.commands.doctor.checks import Finding
from agent.config.presets import make_config
from agent.config.settings import Config
from agent.run_folder.storage import needed_bytes
from agent.training.machine import usable_cores
from agent.training.threads import (
    ALIKE,
    choices,
    describe,
    environment_threads,
    fastest,
    random_chunk,
    time_threads,
    timed,
)
from replay.budget import available_disk, available_memory


def probe_torch() -> None:
    """Report version, threads and GPU, and check one matrix product on the device that a run would use."""
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    text = f"{torch.__version__}, {usable_cores()} CPU cores usable, {torch.get_num_threads()} threads by default"
    if has_gpu:
        free, total = torch.cuda.mem_get_info()
        text += f", {torch.cuda.get_device_name()} with {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    elif torch.version.cuda is not None:
        text += f", built for CUDA {torch.version.cuda} but no GPU is visible"
    matrix = torch.full((512, 512), 1.0, device=device)
    is_right = bool((matrix @ matrix == 512).all())
    advice = "" if is_right else f"a matrix product is wrong on {device}: install another build of torch"
    _print(Finding("torch", "ok" if is_right else "problem", text, advice, {"cuda": has_gpu}))


def probe_learning(preset: str, task: str, action_dim: int, seconds: float, threads: int | None) -> None:
    """Check memory and disk for a preset's replay, then time decisions and updates in about `seconds`.

    Updates are timed with each number of threads that a run would try, and with `threads` and OMP_NUM_THREADS; the
    remaining measurements use the best number.
    """
    from agent.learning.agent import Agent

    config = make_config(preset, task)
    _print_budget(config, action_dim)
    agent = Agent(config, action_dim)
    chunk = random_chunk(config, action_dim)
    frames = np.zeros((config.env.num_envs, *config.env.image_shape), np.uint8)
    memory, first = agent.initial_state(config.env.num_envs), np.zeros(config.env.num_envs, bool)

    def tell(update: float, label: str) -> None:
        """Print what is known so far; a later call replaces an earlier one."""
        act, _ = timed(lambda: agent.act(frames, first, memory, "collect"), 10, seconds / 10)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        text = f"{1000 * update:,.0f} ms ({label}), a decision {1000 * act:.1f} ms; {agent.device}, "
        text += f"threads {torch.get_num_threads()}, peak memory {peak / 1e9:.1f} GB"
        if agent.device.type == "cuda":
            text += f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the GPU"
        _print(Finding("update", "ok", text, figures={"update_seconds": update, "act_seconds": act}))

    if agent.device.type == "cpu":
        torch.set_num_threads(1)
    tell(timed(lambda: agent.update(chunk), 1, warm_up=False)[0], "the very first")
    if agent.device.type == "cpu":
        tell(_choose(lambda: agent.update(chunk), threads, seconds / 6), "mean of a few")
    update, count = timed(lambda: agent.update(chunk), config.update_round, seconds, warm_up=False)
    tell(update, f"mean of {count}")


def _choose(update: Callable[[], Any], threads: int | None, seconds: float) -> float:
    """Time the numbers of threads, report and set the best, and return its seconds per update."""
    asked = threads if threads is not None else environment_threads()
    counts = sorted({*choices(usable_cores()), *([] if asked is None else [asked])})
    times = time_threads(update, counts, seconds)
    best = fastest(times)
    torch.set_num_threads(best)
    text = f"{describe(times, counts)}; {best} is best"
    figures = {"threads": best, "asked_threads": asked, "thread_seconds": {str(n): s for n, s in times.items()}}
    if asked is None or times.get(asked, math.inf) <= ALIKE * times[best]:
        _print(Finding("threads", "ok", text, figures=figures))
        return times[best]
    source = f"--threads {asked}" if threads is not None else f"OMP_NUM_THREADS={asked}"
    _print(Finding("threads", "note", text, f"{source} is slower: train with --threads {best}", figures))
    return times[best]


def _print_budget(config: Config, action_dim: int) -> None:
    """Report whether memory and disk hold the replay, by the trainer's own rules."""
    needs = dict(zip(("memory", "disk"), needed_bytes(config, action_dim), strict=True))
    available = {"memory": available_memory(), "disk": available_disk(Path("runs") / config.task / "episodes")}
    for name, needed in needs.items():
        fits = needed <= available[name]
        text = f"a full replay takes {needed / 1e9:.2f} GB, {available[name] / 1e9:.1f} GB are available"
        steps = config.replay.capacity_steps * available[name] // max(1, needed)
        advice = "" if fits else f"train with --replay.capacity_steps {steps} or less"
        figures = {f"{name}_bytes": needed, f"{name}_available": available[name]}
        _print(Finding(name, "ok" if fits else "problem", text, advice, figures))


def _print(finding: Finding) -> None:
    print(json.dumps({finding.name: asdict(finding)}), flush=True)
