"""What a benchmark's figures belong to: hardware, versions, commit; and whose time they are."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

LIBRARIES = ("torch", "numpy", "gymnasium", "mujoco", "dm-control")

Meter = Callable[[], float]  # only ever rises: a clock, or FLOPs so far


def uses_processor_time(device: torch.device, threads: int) -> bool:
    """Whether `clock` counts the time of this process alone; that of several threads would be their sum."""
    return device.type == "cpu" and threads == 1


def clock(device: torch.device, threads: int) -> Meter:
    """Milliseconds: of the processor for one thread on a CPU, so that a busy machine counts for little; else wall.

    A device's own work is included: parts wait for it, so on a GPU they do not overlap.
    """
    seconds = time.process_time if uses_processor_time(device, threads) else time.perf_counter

    def read() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 1000 * seconds()

    return read


def describe_machine(device: torch.device, threads: int) -> dict[str, str]:
    """Name -> line of text. The load is that of the last minute: figures from a busy machine are too low."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    return {
        "cpu": f"{cpu_name()}, {cores} cores usable, {threads} threads used, load {os.getloadavg()[0]:.1f}",
        **gpu,
        "gl": os.environ.get("MUJOCO_GL", "unused"),
        "versions": ", ".join([f"Python {platform.python_version()}", *libraries]),
        "commit": current_commit(),
    }


def cpu_name() -> str:
    """The processor's model name where Linux tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def current_commit() -> str:
    """The commit of this source tree, marked "+ changes" where tracked files differ; "unknown" outside of git."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty= + changes"]
    try:
        shown = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return shown.stdout.strip()
