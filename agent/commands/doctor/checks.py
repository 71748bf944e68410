"""Checks of this machine: versions, simulator, GL backends, frames per second. Anything that may hang is a probe."""

import json
import os
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from platform import python_version
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from agent.commands.doctor.subprocesses import NO_ANSWER, NO_TIME, READY, ROOT, Allowance, run_probe, run_probes
from agent.training.machine import current_load
from envs.encoders import INSTALL, choose_encoder
from envs.rendering import BACKENDS, PROFILES
from envs.tasks import SUITE_TASKS, base_task

MORE_TIME = "give the probes more time: --seconds 300"
Verdict = Literal["ok", "note", "problem"]

# Builds, resets and steps a task without rendering: checks that the versions of dm_control and mujoco fit together.
SIMULATOR_PROBE = """
import numpy as np
from dm_control import suite
env = suite.load({domain!r}, {task!r})
env.reset()
env.step(np.zeros(env.action_spec().shape))
"""
DRAWING_PROBE = (
    "from agent.commands.doctor.checks import draw; draw({task!r}, {profile!r}, {action_repeat!r}, {seconds!r})"
)
ENCODER_PROBE = "from agent.commands.doctor.checks import encode; encode()"
BACKEND_PROBE = "from dm_control import suite\n" + DRAWING_PROBE  # so that a failure shows dm_control's own message


@dataclass(frozen=True)
class Finding:
    """The verdict of one check: `ok`, a `note` that stops no run, or a `problem` that does; with advice."""

    name: str
    verdict: Verdict
    text: str
    advice: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- versions


def version() -> str:
    """Return this project's version: from the pyproject.toml of a checkout, else as installed."""
    project = _project()
    return project["version"] if project is not None else metadata.version("aime-rl")


def _project() -> dict[str, Any] | None:
    path = ROOT / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"] if path.is_file() else None


def requirements() -> tuple[str, list[str]]:
    """Return the bounds on Python and the requirements: from the pyproject.toml of a checkout, else as installed."""
    project = _project()
    if project is not None:
        return project["requires-python"], project["dependencies"]
    about = metadata.metadata("aime-rl")
    lines = metadata.requires("aime-rl") or []
    return about["Requires-Python"], [line for line in lines if "extra ==" not in line]


def check_versions(bounds: str, lines: Iterable[str]) -> list[Finding]:
    """Check Python and every package against their bounds: findings for Python, each wrong package, and the count."""
    version = python_version()
    fits = SpecifierSet(bounds).contains(version, prereleases=True)
    advice = "" if fits else "create the virtual environment with a Python version within these bounds"
    found = [Finding("python", "ok" if fits else "problem", f"{version}, expected {bounds}", advice)]
    amiss, count = [], 0
    for requirement in map(Requirement, lines):
        count += 1
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            installed = "missing"
        if installed == "missing" or not requirement.specifier.contains(installed, prereleases=True):
            text = f"{installed}, expected {requirement.specifier}"
            amiss.append(Finding(requirement.name, "problem", text, f'pip install "{requirement}"'))
    within = Finding("packages", "ok", f"{count - len(amiss)} of {count} within their bounds")
    return [*found, *amiss, within]


def check_load() -> Finding:
    """Check whether other programs keep the cores busy, which makes every measurement too slow."""
    load = current_load()
    figures = load._asdict()
    if load.programs < 0.5 * load.cores:
        return Finding("load", "ok", str(load), figures=figures)
    advice = "the measurements below suffer from it; fewer --threads wait less"
    return Finding("load", "note", f"{load}: other programs are busy", advice, figures)


# ---------------------------------------------------------------- simulator and drawing


def check_simulator(task: str, seconds: float) -> Finding:
    """Check that the installed dm_control and mujoco build, reset and step a task of the suite without rendering."""
    domain, name = SUITE_TASKS[base_task(task)]
    answer = run_probe(SIMULATOR_PROBE.format(domain=domain, task=name), seconds, MUJOCO_GL="disable")
    pair = ", ".join(f"{package} {_installed(package)}" for package in ("dm-control", "mujoco"))
    if answer.failure is None:
        return Finding("simulator", "ok", f"{pair}: {task} loads and steps")
    advice = f"python -m pip install -e . installs matching versions ({pair} are installed)"
    return failed("simulator", answer.failure, advice)


def failed(name: str, failure: str, advice: str) -> Finding:
    """Return the finding of a failed probe; only a note if there was no time left for it."""
    verdict: Verdict = "note" if failure == NO_TIME else "problem"
    return Finding(name, verdict, failure, MORE_TIME if failure == NO_TIME or failure.startswith(NO_ANSWER) else advice)


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def draw(task: str, profile: str, action_repeat: int, seconds: float) -> None:
    """Do a drawing probe's work: step a task at random for `seconds`; print frames per second and action_dim."""
    from envs.factory import make_env
    from envs.pixels import split

    env = make_env(task, action_repeat=action_repeat, render=profile)
    frame, _ = split(env.reset(seed=0)[0])
    if base_task(task) in SUITE_TASKS and frame.max() == 0:
        raise RuntimeError("the frame is black")
    env.action_space.seed(0)
    env.step(env.action_space.sample())
    print(READY, flush=True)
    sys.stdin.read()
    frames, start = 0, time.monotonic()
    while time.monotonic() < start + seconds or frames == 0:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        frames += 1
        if terminated or truncated:
            env.reset()
    rate = frames / (time.monotonic() - start)
    env.close()
    print(json.dumps({"frames_per_second": rate, "action_dim": env.action_space.sample().size}), flush=True)


def check_backends(task: str, action_repeat: int, workers: int, allowance: Allowance) -> tuple[list[Finding], str]:
    """Check each GL backend with `workers` parallel renderers; also return the one that a run would use ("": none)."""
    script = BACKEND_PROBE.format(task=task, profile="fast", action_repeat=action_repeat, seconds=1.0)
    chosen = os.environ.get("MUJOCO_GL", "")
    works: dict[str, bool] = {}  # backends that draw -> whether all workers draw in parallel
    found: list[Finding] = []
    for backend in BACKENDS:
        answers = run_probes(script, allowance.share(), workers, MUJOCO_GL=backend)
        failure = next((answer.failure for answer in answers if answer.failure), None)
        if failure is None:
            rates = [answer.figures["frames_per_second"] for answer in answers]
            text = f"{workers} renderers in parallel, {sum(rates):,.0f} frames/s in total"
            found.append(Finding(backend, "ok", text, figures={"together_frames_per_second": rates}))
            works[backend] = True
            continue
        if workers > 1 and run_probe(script, allowance.share(), MUJOCO_GL=backend).failure is None:
            works[backend] = False
            failure = f"one renderer works; {workers} in parallel: {failure}"
        found.append(Finding(backend, "note", failure))
    taken = chosen if chosen else next(iter(works), "")
    return [*found, _drawing(chosen, taken, works)], taken if taken in works else ""


def _drawing(chosen: str, taken: str, works: Mapping[str, bool]) -> Finding:
    """Return the verdict for a run, which uses MUJOCO_GL's backend if that is set, else the first that renders."""
    others = ", ".join(works)
    if not works:
        return Finding("drawing", "problem", "no GL backend works", "install libegl1 libgl1-mesa-dri")
    if chosen and chosen not in works:
        return Finding("drawing", "problem", f"MUJOCO_GL={chosen} does not work", f"unset MUJOCO_GL to use {others}")
    if works[taken]:
        return Finding("drawing", "ok", f"a run uses {taken}" + (" (MUJOCO_GL)" if chosen else ""))
    better = next((backend for backend, together in works.items() if together), None)
    advice = f"export MUJOCO_GL={better}" if better else "keep --env.num_envs at 1"
    return Finding("drawing", "note", f"a run uses {taken}, which fails with parallel renderers", advice)


def check_profiles(task: str, action_repeat: int, backend: str, allowance: Allowance) -> list[Finding]:
    """Measure frames per second of one environment at 64x64 in each render profile, simulation included."""
    variables = {"MUJOCO_GL": backend} if backend else {}
    found = []
    for profile in PROFILES if base_task(task) in SUITE_TASKS else PROFILES[:1]:
        script = DRAWING_PROBE.format(task=task, profile=profile, action_repeat=action_repeat, seconds=2.0)
        figures, failure = run_probe(script, allowance.share(), **variables)
        if failure is not None:
            found.append(failed(f"{profile} frames", failure, f"{task} cannot be rendered; see above"))
            continue
        text = f"{figures['frames_per_second']:,.0f} frames/s at 64x64 (action repeat {action_repeat})"
        found.append(Finding(f"{profile} frames", "ok", text, figures=figures))
    return found


# ---------------------------------------------------------------- videos


def encode() -> None:
    """Do an encoder probe's work: try to write a tiny mp4, and print the encoder and format that work."""
    choice = choose_encoder(Path("run.mp4"))
    print(
        json.dumps({"encoder": choice.encoder, "suffix": choice.path.suffix, "failures": choice.failures}), flush=True
    )


def check_encoder(seconds: float) -> Finding:
    """Check which encoder writes videos. No run needs one, so any failure is only a note."""
    figures, failure = run_probe(ENCODER_PROBE, seconds)
    if failure is not None:
        return replace(failed("video", failure, INSTALL), verdict="note")
    text = f"{figures['encoder']} writes {figures['suffix'].removeprefix('.')} files"
    if not figures["failures"]:
        return Finding("video", "ok", text, figures=figures)
    return Finding("video", "note", f"{text}, because {'; '.join(figures['failures'])}", INSTALL, figures)
