"""Learning curves of our agent, its ablations and SAC, and a table of them beside published scores.

    python -m benchmarks.learning.runs run --tasks cartpole_swingup ball_in_cup_catch [--seeds 0 1] [--preset cpu]
        [--arms aime sum] [--stages 50000 100000] [--threads 2] [--max_minutes 90] [--runs runs/learning]
        [--results benchmarks/results/learning] [--set key=value ...]
    python -m benchmarks.learning.runs table [--results benchmarks/results/learning] [--markdown out.md] [--figure out.png]

`run` trains one run after the other through the public command line, evaluates at every stage (env_frames), and then
writes the run's file in --results. The same command again skips stages that are there and goes on with what was
stopped. A preset's train.final_updates come at the last of --stages alone. --max_minutes bounds the training of a run
over all calls: what it stopped goes on with a larger one.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

import yaml

from agent.config.presets import parse_overrides
from agent.config.settings import Config
from agent.learning.agent import choose_device
from agent.run_folder.checkpoint import checkpoint_paths, load_newest
from agent.run_folder.logger import read_metrics
from benchmarks.harness.machine import describe_machine
from benchmarks.harness.report import check_target, parse_settings
from benchmarks.learning.table import ARMS, Result, load_result, make_table, write_figure
from envs.rendering import RenderingError, choose_gl_backend
from envs.tasks import SUITE_TASKS, task_names
from replay.writing import write_whole
from world_model.settings import unknown_key

FOLDER = Path(__file__).resolve().parent
TAKEN = ("task", "preset", "seed", "env_frames", "threads")  # settings that `run` has options of its own for
MODES = {"deterministic": "deterministic", "sampled": "sample", "random": "random"}  # ours -> run_agent.py's


@dataclass(frozen=True)
class Run:
    """One run: what is trained, its folder, and its result file."""

    task: str
    preset: str
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
    for name, value, least in (("stages", min(given.stages), 1), ("threads", given.threads, 1)):
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")
    if given.max_minutes is not None and not given.max_minutes > 0:
        raise ValueError(f"max_minutes: got {given.max_minutes}, expected a positive number")
    common = parse_settings(given.set, TAKEN)
    runs = []
    for task in dict.fromkeys(given.tasks):
        for arm in dict.fromkeys(given.arms):
            overrides = common | ARMS[arm]
            for seed in dict.fromkeys(given.seeds):
                settings = [f"--{key}={value}" for key, value in (overrides | {"seed": str(seed)}).items()]
                config = parse_overrides(settings, given.preset, task)
                name = f"{given.preset}-{task}-{arm}-s{seed}"
                path = given.results / f"{name}.json"
                stored, logdir = load_result(path) if path.is_file() else None, given.runs / name
                if stored is not None and stored["overrides"] != overrides:
                    raise ValueError(f"results: '{path}' has other overrides; choose other --runs and --results")
                if stored is not None and stored["stages"] and not logdir.is_dir():  # its curve would be replaced
                    raise ValueError(f"results: the run of '{path}' is not in '{given.runs}'; choose other --results")
                runs.append(Run(task, given.preset, arm, overrides, seed, config, logdir, path))
    if any(run.task in SUITE_TASKS for run in runs):
        choose_gl_backend()  # once for all runs
    return runs


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
    agent = str(FOLDER.parent / "run_agent.py")
    held_out = ["--episodes=10", "--seed=500000", f"--json={figures}", "--overwrite"]
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
        raise RuntimeError((said.strip().splitlines() or [f"exit status {process.returncode}"])[-1])


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


# ---------------------------------------------------------------- commands


def run_command(given: argparse.Namespace) -> int:
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


def table_command(given: argparse.Namespace) -> int:
    """Print the table; write it and the figure where they are asked for."""
    check_target("markdown", given.markdown)
    check_target("figure", given.figure)
    results = [load_result(path) for path in sorted(given.results.glob("*.json"))]
    if not results:
        raise ValueError(f"results: got '{given.results}', expected a folder with files of `learning.py run`")
    table = make_table(results)
    print(table, end="")
    if given.markdown is not None:
        given.markdown.write_text(table, encoding="utf-8")
    if given.figure is not None:
        write_figure(results, given.figure)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, 1 where a run failed, 2 with one line for bad input, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="train, evaluate, write result files")
    run.set_defaults(command=run_command)
    run.add_argument("--tasks", nargs="+", required=True)
    run.add_argument("--seeds", type=int, nargs="+", default=[0])
    run.add_argument("--preset", default="cpu")
    run.add_argument("--arms", nargs="+", default=["aime"], help=", ".join(ARMS))
    run.add_argument("--stages", type=int, nargs="+", default=[50_000, 100_000], help="env_frames to evaluate at")
    run.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    run.add_argument("--max_minutes", type=float, help="of each run's training, all calls together")
    run.add_argument("--runs", type=Path, default=Path("runs/learning"), help="folder of the runs' folders")
    run.add_argument("--set", nargs="+", default=[], metavar="key=value", help="settings of every arm")
    table = commands.add_parser("table", help="print what the result files say")
    table.set_defaults(command=table_command)
    table.add_argument("--markdown", type=Path, help="file for the table")
    table.add_argument("--figure", type=Path, help="file for the curves, such as out.png")
    folder = Path("benchmarks/results/learning")
    for command in (run, table):
        command.add_argument("--results", type=Path, default=folder, help="folder of the result files")
    given = parser.parse_args(arguments)
    try:
        return given.command(given)
    except (ValueError, RenderingError) as error:
        print(f"learning.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("learning.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
