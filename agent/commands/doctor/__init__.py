"""doctor: a check that a run can start on this machine, and an estimate of its time."""

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
    """Check the options; the job prints its findings and returns 0 if a run can start, else 1."""
    parser = Parser("doctor", epilog="Exit status: 0 if a run can start, 1 if it cannot, 2 after bad input.")
    parser.add_argument("--task", help="task to learn (default: the preset's, else cartpole_swingup)")
    parser.add_argument("--preset", help="cpu, gpu, reference or debug (default: gpu if there is a GPU, else cpu)")
    parser.add_argument("--workers", type=int, default=2, help="parallel renderers to try (default: 2)")
    parser.add_argument("--threads", type=int, help="an additional number of CPU threads to try")
    parser.add_argument("--seconds", type=float, default=60.0, help="total time of all probes (default: 60)")
    parser.add_argument("--json", type=Path, help="file for the findings as JSON")
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
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, so that no probe is left running."""

    def stop(number: int, _: Any) -> None:
        sys.exit(128 + number)

    with handled(stop, signal.SIGTERM, signal.SIGHUP):
        yield


def examine(options: argparse.Namespace, allowance: "Allowance") -> dict[str, Any]:
    """Run all checks, print each finding as it comes, and return {"findings", "can_start", "command", ...}."""
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
        _report(found, finding)
    for finding in _findings("torch", run_probe(TORCH_PROBE, allowance.share())):
        _report(found, finding)
    preset = options.preset
    if preset is None:
        preset = "gpu" if _figure(found, "cuda") else "cpu"
    config = make_config(preset, options.task)
    repeat, is_drawn = config.env.action_repeat, base_task(config.task) in SUITE_TASKS
    drawn_task = config.task if is_drawn else "cartpole_swingup"

    def tell(finding: "Finding") -> None:
        needless = finding.verdict == "problem" and not is_drawn
        _report(found, replace(finding, verdict="note", advice=f"{config.task} needs none") if needless else finding)

    tell(check_simulator(drawn_task, allowance.share()))
    backends, backend = check_backends(drawn_task, repeat, options.workers, allowance)
    for finding in backends:
        tell(finding)
    for finding in check_profiles(config.task, repeat, backend, allowance) if backend or not is_drawn else []:
        _report(found, finding)
    _report(found, check_encoder(allowance.share()))
    actions = _figure(found, "action_dim") or config.world_model.action_dim
    figures = {"actions": actions, "seconds": allowance.left() / 3, "threads": options.threads}
    script = LEARNING_PROBE.format(preset=preset, task=config.task, **figures)
    for finding in _findings("update", run_probe(script, allowance.left())):
        _report(found, finding)
    return _conclude(found, config)


def _report(found: "list[Finding]", finding: "Finding") -> None:
    """Append a finding and print it in one line, with a second line for the advice."""
    found.append(finding)
    say(f"{finding.verdict:<8} {finding.name:<16} {finding.text}")
    if finding.advice:
        say(f"{'':<8} {'':<16} -> {finding.advice}")


def _figure(found: "list[Finding]", name: str) -> Any:
    """Return the first figure of that name among all findings, or None."""
    return next((finding.figures[name] for finding in found if name in finding.figures), None)


def _findings(name: str, answer: "Answer") -> "Iterator[Finding]":
    """Yield the findings that a probe printed, and one more if it failed."""
    from agent.commands.doctor.checks import Finding, failed
    from agent.commands.doctor.subprocesses import NO_ANSWER

    for figures in answer.figures.values():
        yield Finding(**figures)
    if answer.failure is None or (answer.failure.startswith(NO_ANSWER) and name in answer.figures):
        return
    finding = failed(name, answer.failure, "python -m pip install -e . installs matching versions")
    is_slow = name == "update" and answer.failure.startswith(NO_ANSWER)  # a slow machine can still start a run
    yield replace(finding, verdict="note") if is_slow else finding


def _conclude(found: "list[Finding]", config: Config) -> dict[str, Any]:
    """Print the verdict, the hours of a whole run and the next command; return the report."""
    problems = [finding.name for finding in found if finding.verdict == "problem"]
    hours = expected_hours(config, found)
    words = ["train", "--task", config.task, "--preset", config.preset]
    if _figure(found, "asked_threads") is not None:  # otherwise a run finds the same number by itself
        words += ["--threads", _figure(found, "threads")]
    command = hint(*words)
    say()
    if hours is not None:
        duration = f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes, {hours:.2f} hours"
        say(f"about {duration} for {config.env_frames:,} env_frames, evaluations not counted")
    if config.preset == "gpu" and _figure(found, "cuda") is False:
        say("this machine has no GPU: --preset cpu fits it better")
    if problems:
        say(f"problems: {', '.join(problems)}")
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
    """Return the hours of a whole run without evaluations, by the findings' figures; None if one is missing.

    Updates run one after the other; environments render in parallel as far as there are cores.
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
