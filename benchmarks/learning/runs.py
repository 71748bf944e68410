"""Learning curves of our agent, its ablations and SAC: trained and evaluated in stages, one result file per run.

    python -m benchmarks.learning.runs --tasks cartpole_swingup ball_in_cup_catch [--seeds 0 1] [--preset cpu]
        [--arms aime sum] [--set key=value ... --name NAME] [--stages 100000] [--threads 2] [--max_minutes 90]
        [--runs runs/learning] [--results benchmarks/results/learning]

Trains one run after the other through the public command line, evaluates at every stage (env_frames), and then writes
the run's file, TASK-NAME-sSEED.json. NAME says what was run: the preset's own name, another one (--name) where --set
changes settings, and behind it the arm. The settings are in the file, so a preset may change: then the same command
refuses to continue an older configuration and asks for another --name. Otherwise it skips the stages that are there and
resumes what was stopped. Where learning rates fall towards a budget's end (optimizer.anneal) there is one stage. A
preset's train.final_updates come at the last of --stages alone. --max_minutes bounds the training of a run over all
calls: what it stopped is resumed with a larger one.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import environ
from pathlib import Path
from typing import Any

import yaml

from agent.config.nested import flatten
from agent.config.presets import parse_overrides
from agent.config.settings import Config
from agent.learning.agent import choose_device
from agent.run_folder.checkpoint import checkpoint_paths, load_newest
from agent.run_folder.logger import read_metrics
from agent.sweep.child import PROGRAM
from benchmarks.harness.command import Command, parse_settings, positive
from benchmarks.harness.machine import describe_machine
from benchmarks.learning.results import ARMS, FOLDER, HELD_OUT_SEED, Result, load_result
from envs.rendering import choose_gl_backend
from envs.tasks import SUITE_TASKS, task_names
from envs.wording import describe_exit
from replay.writing import write_whole
from world_model.settings import unknown_key

TAKEN = ("task", "preset", "seed", "env_frames", "threads")  # settings that have options of their own
# A run's own from stage to stage, or without a say in what it learns: the rest of a config makes the configuration.
OF_A_STAGE = ("env_frames", "threads", "train.final_updates")
MODES = {"deterministic": "deterministic", "sampled": "sample", "random": "random"}  # ours -> run_agent.py's


@dataclass(frozen=True)
class Run:
    """One run: what is trained, the name of its configuration, its folder, and its result file."""

    task: str
    preset: str
    name: str
    arm: str
    overrides: dict[str, str]
    seed: int
    config: Config
    logdir: Path
    path: Path


def plan(given: argparse.Namespace) -> list[Run]:
    """All runs, in order. ValueError for whatever can be wrong with the input, before anything is trained."""
    for names, known, kind in ((given.tasks, task_names(), "task"), (given.arms, list(ARMS), "arm")):
        for name in names:
            if name not in known:
                raise ValueError(unknown_key(name, known, kind))
    if min(given.stages) < 1:
        raise ValueError(f"stages: got {min(given.stages)}, expected at least 1")
    if given.max_minutes is not None:
        positive("max_minutes", given.max_minutes)
    common = parse_settings(given.set, TAKEN)
    if common and given.name is None:
        raise ValueError("name: got none, expected --name for the configuration that --set makes")
    name = given.name if given.name is not None else given.preset
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name: got {name!r}, expected letters, digits, '_', '.' and '-'")
    runs = [
        plan_run(given, task, name if arm == "aime" else f"{name}-{arm}", arm, common | ARMS[arm], seed)
        for task in dict.fromkeys(given.tasks)
        for arm in dict.fromkeys(given.arms)
        for seed in dict.fromkeys(given.seeds)
    ]
    annealed = max((run.config.optimizer.anneal for run in runs if run.config.algo == "aime"), default=0.0)
    if annealed > 0 and len(set(given.stages)) > 1:
        reason = f"learning rates fall towards a budget's end (optimizer.anneal {annealed})"
        raise ValueError(f"stages: got {given.stages}, expected one: {reason}")
    if any(run.task in SUITE_TASKS for run in runs):
        choose_gl_backend()  # once for all runs
    return runs


def plan_run(given: argparse.Namespace, task: str, name: str, arm: str, overrides: dict[str, str], seed: int) -> Run:
    """One run. ValueError where the file of its name is another configuration's, or the run behind it is not there."""
    settings = [f"--{key}={value}" for key, value in (overrides | {"seed": str(seed)}).items()]
    config = parse_overrides(settings, given.preset, task)
    path = given.results / f"{task}-{name}-s{seed}.json"
    run = Run(task, given.preset, name, arm, overrides, seed, config, given.runs / path.stem, path)
    stored = load_result(path) if path.is_file() else None
    if stored is not None and (key := changed_key(stored, config)) is not None:
        raise ValueError(f"name: '{path}' has another {key}; choose another --name for this configuration")
    if stored is not None and stored["stages"] and not run.logdir.is_dir():  # its curve would be replaced
        raise ValueError(f"results: the run of '{path}' is not in '{given.runs}'; choose other --results")
    return run


def changed_key(stored: Result, config: Config) -> str | None:
    """The first setting whose value in a result file is not the config's; what only one of them has is left out."""
    before, now = (dict(flatten(values)) for values in (stored["config"], json.loads(json.dumps(asdict(config)))))
    shared = [key for key in before if key in now and key not in OF_A_STAGE]
    return next((key for key in shared if before[key] != now[key]), None)


def carry_out(run: Run, given: argparse.Namespace) -> str:
    """Train and evaluate a run at the stages that it lacks, its file written after each -> how it ended."""
    missing = sorted(set(given.stages) - {stage["env_frames"] for stage in stages_of(run)})
    tick = run.config.env.num_envs * run.config.env.action_repeat  # how far a run may end beyond its budget
    todo = [stage for stage in missing if stage > counters(run.logdir)["env_frames"] - tick]
    status = "nothing left to do"
    if todo != missing:
        print(f"{run.path.stem}: already trained beyond {missing[: len(missing) - len(todo)]}: left out", flush=True)
    for env_frames in todo:
        stage, status = reach(run, env_frames, given)
        if stage is not None and env_frames < todo[-1]:
            status = f"stopped: at {env_frames:,} of {todo[-1]:,} env_frames"  # should this process be killed
        write_result(run, status, given.threads, stage)
        if stage is None:
            break
    return status


def reach(run: Run, env_frames: int, given: argparse.Namespace) -> tuple[Result | None, str]:
    """Train to a stage and evaluate there -> its entry, or None where training was stopped; and how it ended."""
    train, evaluate, figures = commands(run, env_frames, given)
    spent = counters(run.logdir)
    if spent["env_frames"] < env_frames or spent["is_due"]:
        limit = [] if given.max_minutes is None else [given.max_minutes - spent["wall_seconds"] / 60]
        if not limit or limit[0] > 0:
            call([*train, *(f"--max_minutes={minutes}" for minutes in limit)], given.threads)
        spent = counters(run.logdir)
    if spent["env_frames"] < env_frames or spent["is_due"]:
        reason = "signal" if given.max_minutes is None else "wall-clock limit"
        return None, f"stopped: {reason} at {spent['env_frames']:,} env_frames"
    call(evaluate, given.threads)
    played = json.loads(figures.read_text(encoding="utf-8"))
    stage = {"env_frames": env_frames, "updates": spent["updates"], "wall_seconds": spent["wall_seconds"]}
    for name, mode in MODES.items():
        stage[name] = {key: played[mode][key] for key in ("mean", "std", "returns")}
    return stage, "finished"


def commands(run: Run, env_frames: int, given: argparse.Namespace) -> tuple[list[str], list[str], Path]:
    """The commands that train a run to `env_frames` and that evaluate it, and the file that the second one writes.

    `train.final_updates` come at the last stage alone: what a run does later must not depend on where it was looked at.
    """
    figures = run.logdir / "evaluation.json"
    options = {"logdir": run.logdir, "task": run.task, "preset": run.preset, "seed": run.seed}
    options |= {"threads": given.threads, "env_frames": env_frames} | run.overrides
    if final := run.config.train.final_updates:
        options["train.final_updates"] = final if env_frames == max(given.stages) else 0
    chosen = [f"--{key}={value}" for key, value in options.items()]
    agent = str(PROGRAM)
    held_out = ["--episodes=10", f"--seed={HELD_OUT_SEED}", f"--json={figures}", "--overwrite"]
    return [agent, "train", *chosen], [agent, "evaluate", f"--logdir={run.logdir}", *held_out], figures


def call(command: list[str], threads: int) -> None:
    """Run a Python command; RuntimeError with its last line on stderr if it fails. Ctrl-C waits: the trainer saves."""
    settings = environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, env=settings) as process:
        try:
            _, said = process.communicate()
        except KeyboardInterrupt:
            process.communicate()
            raise
    print(said, file=sys.stderr, end="", flush=True)
    if process.returncode != 0:
        raise RuntimeError(describe_exit(process.returncode, said))


def counters(logdir: Path) -> dict[str, Any]:
    """Those of a run's newest checkpoint, and whether something is due before its next row; zeros before the first."""
    if not checkpoint_paths(logdir / "checkpoints"):
        return {"env_frames": 0, "updates": 0, "wall_seconds": 0.0, "is_due": False}
    payload = load_newest(logdir / "checkpoints")[0]
    return payload["counters"] | {"is_due": bool(payload["due"]["updates"] or payload["due"]["evaluation"])}


def curve(logdir: Path, name: str) -> list[list[float]]:
    """[[env_frames, value], ...] of a metric in metrics.jsonl, rounded to one decimal."""
    rows = read_metrics(logdir / "metrics.jsonl")
    return [[row["env_frames"], round(row[name], 1)] for row in rows if row.get(name) is not None]


def stages_of(run: Run) -> list[Result]:
    """The stages in a run's file; none where there is no file."""
    return load_result(run.path)["stages"] if run.path.is_file() else []


def write_result(run: Run, status: str, threads: int, stage: Result | None = None) -> None:
    """A run's file as it stands, with one more stage: one line for each key, in place of the old file at once."""
    added = [stage] if stage is not None else []
    config = run.logdir / "config.yaml"
    result = {
        "task": run.task,
        "preset": run.preset,
        "name": run.name,
        "arm": run.arm,
        "overrides": run.overrides,
        "seed": run.seed,
        "config": yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {},
        "machine": describe_machine(choose_device(run.config.device), threads),
        "wall_seconds": counters(run.logdir)["wall_seconds"],
        "status": status,
        "stages": sorted([*stages_of(run), *added], key=lambda entry: entry["env_frames"]),
        "training": curve(run.logdir, "train_return"),
        "evaluations": curve(run.logdir, "eval_return"),
    }
    run.path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in result.items())
    write_whole(run.path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def run_all(given: argparse.Namespace) -> int:
    """Carry out all runs; exit status 1 where one failed."""
    statuses = []
    for run in plan(given):
        try:
            status = carry_out(run, given)
        except (RuntimeError, ValueError, OSError) as error:
            status = f"failed: {' '.join(str(error).split())}"
            write_result(run, status, given.threads)
        print(f"{run.path.stem}: {status}", flush=True)
        statuses.append(status)
    return int(any(status.startswith("failed") for status in statuses))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate, write result files; exit status 1 where a run failed."""
    command = Command("learning.runs", __doc__)
    command.add_argument("--tasks", nargs="+", required=True)
    command.add_argument("--seeds", type=int, nargs="+", default=[0])
    command.add_argument("--preset", default="cpu")
    command.add_argument("--arms", nargs="+", default=["aime"], help=", ".join(ARMS))
    command.add_argument("--set", nargs="+", default=[], metavar="key=value", help="settings of every arm")
    command.add_argument("--name", help="what the configuration is called (default: the preset's name)")
    command.add_argument("--stages", type=int, nargs="+", default=[100_000], help="env_frames to evaluate at")
    command.add_number("threads", 2, "CPU threads of torch")
    command.add_argument("--max_minutes", type=float, help="of each run's training, all calls together")
    command.add_argument("--runs", type=Path, default=Path("runs/learning"), help="folder of the runs' folders")
    command.add_argument("--results", type=Path, default=FOLDER, help="folder of the result files")
    return command.call(arguments, run_all)


if __name__ == "__main__":
    sys.exit(main())
