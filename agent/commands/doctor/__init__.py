"""doctor: can a run start on this machine, and how long would it take?"""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.commands import Job, say
from agent.commands.parser import Parser, add_overwrite, check_at_least, check_target, hint, write_json
from agent.config.presets import make_config
from agent.config.settings import Config
from agent.training.stopping import handled

if TYPE_CHECKING:
    from agent.commands.doctor.checks import Finding
    from agent.commands.doctor.subprocesses import Allowance, Answer

TORCH_PROBE = "from agent.commands.doctor.probes import probe_torch; probe_torch()"
LEARNING_PROBE = (
    "from agent.commands.doctor.probes import probe_learning; "
    "probe_learning({preset!r}, {task!r}, {actions!r}, {seconds!r}, {threads!r})"
)


def prepare(arguments: list[str]) -> Job:
    """Check the options; the job looks, tells, and returns 0 where a run can start, else 1."""
    parser = Parser("doctor", epilog="Exit status: 0 where a run can start, 1 where it can not, 2 after bad input.")
    parser.add_argument("--task", help="task that will be learned (default: the preset's, else cartpole_swingup)")
    parser.add_argument("--preset", help="cpu, gpu, reference or debug (default: gpu where there is one, else cpu)")
    parser.add_argument("--workers", type=int, default=2, help="renderers side by side (default: 2)")
    parser.add_argument("--threads", type=int, help="a number of CPU threads to try beside those that a run tries")
    parser.add_argument("--seconds", type=float, default=60.0, help="all that the probes may take (default: 60)")
    parser.add_argument("--json", type=Path, help="where the findings go, for programs")
    add_overwrite(parser)
    options, _ = parser.parse(arguments)
    check_at_least(options, workers=1, **({} if options.threads is None else {"threads": 1}))
    from agent.commands.doctor.subprocesses import Allowance
    from envs.tasks import checked_task

    Allowance(options.seconds)
    checked_task(make_config(options.preset if options.preset is not None else "cpu", options.task).task)
    if options.json is not None:
        check_target(options.json, "json", options.overwrite)

    def job() -> int:
        with _signals_as_exits():
            report = examine(options, Allowance(options.seconds))
        if options.json is not None:
            say(write_json(options.json, report))
        return 0 if report["can_start"] else 1

    return job


@contextmanager
def _signals_as_exits() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, so that no probe is left."""

    def stop(number: int, _: Any) -> None:
        sys.exit(128 + number)

    with handled(stop, signal.SIGTERM, signal.SIGHUP):
        yield


def examine(options: argparse.Namespace, allowance: "Allowance") -> dict[str, Any]:
    """Look at everything, telling each finding as it comes -> {"findings", "can_start", "command", ...} for JSON."""
    from agent.commands.doctor.checks import (
        check_backends,
        check_encoder,
        check_load,
        check_profiles,
        check_simulator,
        check_versions,
        requirements,
    )
    from agent.commands.doctor.subprocesses import run_probe
    from envs.tasks import SUITE_TASKS, base_task

    found: list[Finding] = []
    for finding in [*check_versions(*requirements()), check_load()]:
        _tell(found, finding)
    for finding in _findings("torch", run_probe(TORCH_PROBE, allowance.share())):
        _tell(found, finding)
    preset = options.preset
    if preset is None:
        preset = "gpu" if _figure(found, "cuda") else "cpu"
    config = make_config(preset, options.task)
    repeat, is_drawn = config.env.action_repeat, base_task(config.task) in SUITE_TASKS
    drawn_task = config.task if is_drawn else "cartpole_swingup"

    def tell(finding: "Finding") -> None:
        needless = finding.verdict == "problem" and not is_drawn
        _tell(found, replace(finding, verdict="note", advice=f"{config.task} needs none") if needless else finding)

    tell(check_simulator(drawn_task, allowance.share()))
    backends, backend = check_backends(drawn_task, repeat, options.workers, allowance)
    for finding in backends:
        tell(finding)
    for finding in check_profiles(config.task, repeat, backend, allowance) if backend or not is_drawn else []:
        _tell(found, finding)
    _tell(found, check_encoder(allowance.share()))
    actions = _figure(found, "action_dim") or config.world_model.action_dim
    figures = {"actions": actions, "seconds": allowance.left() / 3, "threads": options.threads}
    script = LEARNING_PROBE.format(preset=preset, task=config.task, **figures)
    for finding in _findings("update", run_probe(script, allowance.left())):
        _tell(found, finding)
    return _conclude(found, config)


def _tell(found: "list[Finding]", finding: "Finding") -> None:
    """Keep a finding and say it in one line, with another one for what to do."""
    found.append(finding)
    say(f"{finding.verdict:<8} {finding.name:<16} {finding.text}")
    if finding.advice:
        say(f"{'':<8} {'':<16} -> {finding.advice}")


def _figure(found: "list[Finding]", name: str) -> Any:
    """The first figure of that name among all findings; None where there is none."""
    return next((finding.figures[name] for finding in found if name in finding.figures), None)


def _findings(name: str, answer: "Answer") -> "Iterator[Finding]":
    """The findings that a probe of this module printed, and one more where it failed."""
    from agent.commands.doctor.checks import Finding, failed
    from agent.commands.doctor.subprocesses import NO_ANSWER

    for figures in answer.figures.values():
        yield Finding(**figures)
    if answer.failure is None or (answer.failure.startswith(NO_ANSWER) and name in answer.figures):
        return
    finding = failed(name, answer.failure, "python -m pip install -e . brings the versions that fit")
    is_slow = name == "update" and answer.failure.startswith(NO_ANSWER)  # which keeps no run from starting
    yield replace(finding, verdict="note") if is_slow else finding


def _conclude(found: "list[Finding]", config: Config) -> dict[str, Any]:
    """Tell the verdict, the hours of the whole run and the command to type next."""
    problems = [finding.name for finding in found if finding.verdict == "problem"]
    hours = expected_hours(config, found)
    words = ["train", "--task", config.task, "--preset", config.preset]
    if _figure(found, "asked_threads") is not None:  # else a run finds the same number by itself
        words += ["--threads", _figure(found, "threads")]
    command = hint(*words)
    say()
    if hours is not None:
        duration = f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes, {hours:.2f} hours"
        say(f"about {duration} for {config.env_frames:,} env_frames, evaluations not counted")
    if config.preset == "gpu" and _figure(found, "cuda") is False:
        say("--preset cpu is made for a machine without a GPU")
    if problems:
        say(f"{len(problems)} in the way: {', '.join(problems)}")
    else:
        say("a run can start:")
        say(f"  {command}")
    return {
        "task": config.task,
        "preset": config.preset,
        "can_start": not problems,
        "hours": hours,
        "command": command,
        "findings": [asdict(finding) for finding in found],
    }


def expected_hours(config: Config, found: "list[Finding]") -> float | None:
    """Hours of a whole run from the figures of the findings, evaluations aside; None where one is missing.

    Updates are one after the other; environments draw side by side as far as there are cores for them.
    """
    from agent.training.machine import usable_cores

    drawn = next((f.figures for f in found if f.name == f"{config.env.render} frames"), None)
    rate = drawn["frames_per_second"] if drawn else _figure(found, "frames_per_second")
    update, act = _figure(found, "update_seconds"), _figure(found, "act_seconds")
    if None in (rate, update, act):
        return None
    replay, repeat, num_envs = config.replay, config.env.action_repeat, config.env.num_envs
    learning_steps = max(0, config.env_frames - replay.prefill_frames) / repeat
    updates = config.train.train_ratio * learning_steps / (replay.batch_size * replay.batch_length)
    updates += config.train.final_updates
    ticks = config.env_frames / repeat / num_envs
    tick = act + ceil(num_envs / usable_cores()) / rate
    return float(updates * update + ticks * tick) / 3600
