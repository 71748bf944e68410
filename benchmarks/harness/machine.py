"""What a benchmark's figures belong to: hardware, versions, commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

LIBRARIES = ("torch", "numpy", "gymnasium", "mujoco", "dm-control")


def describe_machine(device: torch.device, threads: int, load: float | None = None) -> dict[str, str]:
    """Name -> line of text. The load, by default that of the last minute: figures from a busy machine are too low."""
    load = os.getloadavg()[0] if load is None else load
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    return {
        "cpu": f"{cpu_name()}, {cores} cores usable, {threads} threads used, load {load:.1f}",
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
