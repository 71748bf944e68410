"""What the doctor measures with torch, each function the work of a process of its own that prints findings as JSON."""

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
    """Version, threads and GPU, and one matrix product on the device that a run would take."""
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    text = f"{torch.__version__}, {usable_cores()} CPU cores usable, {torch.get_num_threads()} threads by default"
    if has_gpu:
        free, total = torch.cuda.mem_get_info()
        text += f", {torch.cuda.get_device_name()} with {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    elif torch.version.cuda is not None:
        text += f", built for CUDA {torch.version.cuda} but no GPU is seen"
    matrix = torch.full((512, 512), 1.0, device=device)
    is_right = bool((matrix @ matrix == 512).all())
    advice = "" if is_right else f"a product of two matrices is wrong on {device}: install another build of torch"
    _print(Finding("torch", "ok" if is_right else "problem", text, advice, {"cuda": has_gpu}))


def probe_learning(preset: str, task: str, action_dim: int, seconds: float, threads: int | None) -> None:
    """Memory and disk for a preset's replay, then one decision and a round of real updates, in about `seconds`.

    Updates are timed with each number of threads that a run would try, `threads` and that of OMP_NUM_THREADS among
    them; what follows is with the best of them.
    """
    from agent.learning.agent import Agent

    config = make_config(preset, task)
    _print_budget(config, action_dim)
    agent = Agent(config, action_dim)
    chunk = random_chunk(config.replay.batch_size, config.replay.batch_length, action_dim)
    balance = config.world_model.rgb_config
    block = balance.every if config.world_model.use_rgb else 1  # one update of so many rotates gradients
    frames = np.zeros((config.env.num_envs, 64, 64, 3), np.uint8)
    memory, first = agent.initial_state(config.env.num_envs), np.zeros(config.env.num_envs, bool)

    def tell(update: float, label: str) -> None:
        """Print what is known so far; a later call takes the place of an earlier one."""
        act, _ = timed(lambda: agent.act(frames, first, memory, "collect"), 10, seconds / 10)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        text = f"{1000 * update:,.0f} ms ({label}), a decision {1000 * act:.1f} ms; {agent.device}, "
        text += f"threads {torch.get_num_threads()}, {peak / 1e9:.1f} GB of memory at its peak"
        if agent.device.type == "cuda":
            text += f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB on the GPU"
        _print(Finding("update", "ok", text, figures={"update_seconds": update, "act_seconds": act}))

    if agent.device.type == "cpu":
        torch.set_num_threads(1)
    tell(timed(lambda: agent.update(chunk), 1, warm_up=False)[0], "the very first")
    if agent.device.type == "cpu":
        tell(_choose(lambda: agent.update(chunk), threads, seconds / 6), "mean of a few")
    update, count = timed(lambda: agent.update(chunk), block, seconds, warm_up=False)
    tell(update, f"mean of {count}")


def _choose(update: Callable[[], Any], threads: int | None, seconds: float) -> float:
    """Time the numbers of threads, say which is best, take it, and return its seconds of an update."""
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
    """Whether memory and disk hold the replay, by the rules of the trainer."""
    needs = dict(zip(("memory", "disk"), needed_bytes(config, action_dim), strict=True))
    available = {"memory": available_memory(), "disk": available_disk(Path("runs") / config.task / "episodes")}
    for name, needed in needs.items():
        fits = needed <= available[name]
        text = f"replay takes {needed / 1e9:.2f} GB when full, {available[name] / 1e9:.1f} GB are available"
        steps = config.replay.capacity_steps * available[name] // max(1, needed)
        advice = "" if fits else f"train with --replay.capacity_steps {steps} or less"
        figures = {f"{name}_bytes": needed, f"{name}_available": available[name]}
        _print(Finding(name, "ok" if fits else "problem", text, advice, figures))


def _print(finding: Finding) -> None:
    print(json.dumps({finding.name: asdict(finding)}), flush=True)
