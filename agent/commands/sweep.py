"""sweep: train tasks x seeds x values of settings, on this machine, a SLURM cluster or a Ray cluster."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from agent.commands import Job, plot, say
from agent.commands.parser import Parser, check_at_least, check_writable, choose_preset, config_keys, hint

if TYPE_CHECKING:
    from agent.sweep.plan import Sweep
    from agent.sweep.scheduler import Pool, Scheduler
    from agent.sweep.training_run import TrainingRun

HELP = """Every setting of `train` is an option here too, for all runs. The same command again, or --logdir alone,
resumes the sweep; with more tasks, seeds or values it adds their runs. Exit status 1 if a run failed."""
INTERVALS = {"local": 0.5, "slurm": 5.0, "ray": 1.0}  # seconds between two looks at the runs


def prepare(arguments: list[str]) -> Job:
    """Check the definition and the place of the runs, and lock the folder; the job carries the sweep out."""
    options, overrides = _parser().parse(arguments, config_keys())
    _check(options)
    check_writable(options.logdir, "logdir")
    from agent.run_folder.lock import RunLock
    from agent.sweep.plan import load_sweep, save_sweep

    saved = load_sweep(options.logdir)
    sweep = _definition(options, overrides, saved)
    if saved is not None and (lost := saved.lost(sweep)):
        line = f"logdir: '{options.logdir}' holds another sweep ({lost})"
        raise ValueError(f"{line}; choose another --logdir, or only add tasks, seeds and values")
    runs = sweep.runs(options.logdir)
    pool = _pool(options, runs)
    lock = RunLock(options.logdir)
    lock.acquire()

    def job() -> int:
        try:
            save_sweep(sweep, options.logdir)
            return _carry_out(options, runs, pool, hint("sweep", *arguments))
        finally:
            lock.release()

    return job


def _parser() -> Parser:
    parser = Parser("sweep", epilog=HELP)
    parser.add_argument("--logdir", type=Path, required=True, help="the sweep's folder")
    parser.add_argument("--tasks", nargs="+", help="tasks to learn, such as walker_walk cheetah_run")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0 on (default: 1)")
    parser.add_argument("--set", nargs="+", action="extend", metavar="KEY=A,B", help="settings with values to combine")
    parser.add_argument("--preset", help="cpu, gpu, reference or debug (default: as in train; needed on a cluster)")
    parser.add_argument("--on", choices=tuple(INTERVALS), default="local", help="where the runs are (default: local)")
    parser.add_argument("--jobs", type=int, help="runs at once (local: one per GPU, else cores / threads; others: all)")
    parser.add_argument("--threads", type=int, help="CPU threads, and cores, of a run (local: cores / jobs)")
    parser.add_argument("--retries", type=int, default=2, help="resumes in a row without progress (default: 2)")
    parser.add_argument("--slurm", nargs="+", action="extend", metavar="NAME=VALUE", help="partition=gpu time=240 ...")
    parser.add_argument("--ray", metavar="ADDRESS", help="the cluster (default: RAY_ADDRESS, else this machine's)")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Raise ValueError for a number out of range, and for options of another place than --on."""
    check_at_least(options, seeds=1, retries=0)
    check_at_least(options, **{name: 1 for name in ("jobs", "threads") if getattr(options, name) is not None})
    for place in ("slurm", "ray"):
        if getattr(options, place) is not None and options.on != place:
            raise ValueError(f"{place}: got a value with --on {options.on}, expected it with --on {place}")


def _definition(options: argparse.Namespace, overrides: list[str], saved: "Sweep | None") -> "Sweep":
    """Return the sweep that the options define; the saved one if they name none of its parts."""
    from agent.config.presets import setting_texts
    from agent.sweep.plan import Sweep, parse_grid

    if options.tasks is None:
        is_alone = options.seeds == 1 and options.set is None and options.preset is None and not overrides
        if saved is None or not is_alone:
            raise ValueError("tasks: got none, expected --tasks walker_walk ..., or a sweep's --logdir alone")
        return saved
    preset = options.preset
    if preset is None and options.on != "local":
        raise ValueError(f"preset: got none, expected one with --on {options.on}: this machine's hardware says nothing")
    if preset is None:
        preset = saved.preset if saved is not None else choose_preset(None, say)
    tasks, grid = list(dict.fromkeys(options.tasks)), parse_grid(options.set or [])
    return Sweep(preset, tasks, options.seeds, setting_texts(overrides), grid)


def _pool(options: argparse.Namespace, runs: "list[TrainingRun]") -> "Pool":
    """Return the place of the runs. ValueError or RenderingError in one line if it cannot work; nothing is written."""
    most = options.jobs if options.jobs is not None else len(runs)
    needs_gpu = any(run.config.device != "cpu" for run in runs)
    if options.on == "slurm":
        from agent.sweep.slurm import SubmititPool, parse_parameters, slurm_executor

        make = slurm_executor(parse_parameters(options.slurm or []), options.threads, needs_gpu)
        return SubmititPool(make, options.logdir / "jobs", most, options.threads)
    if options.on == "ray":
        from agent.sweep.ray_cluster import RayPool
        from agent.training.ray_connection import connect

        return RayPool(connect(options.ray, "ray"), most, options.threads or 1, needs_gpu)
    from agent.sweep.local import LocalPool, slots, visible_gpus
    from envs.rendering import choose_gl_backend
    from envs.tasks import SUITE_TASKS, base_task

    if any(base_task(run.config.task) in SUITE_TASKS for run in runs):
        choose_gl_backend()  # once for all runs
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    return LocalPool(slots(cores, visible_gpus() if needs_gpu else [], options.jobs, options.threads), options.threads)


def _carry_out(options: argparse.Namespace, runs: "list[TrainingRun]", pool: "Pool", command: str) -> int:
    """Carry out the runs, then plot them; return the exit status. `command` is the one that goes on after a stop."""
    from agent.sweep.scheduler import Scheduler, State
    from agent.sweep.table import SweepTable
    from agent.training.stopping import stop_signals

    say(f"{len(runs)} runs on {options.on}, up to {min(pool.most, len(runs))} at once, in {options.logdir}")
    scheduler = Scheduler(runs, pool, options.retries, lambda line: table.note(line))
    table = SweepTable(scheduler.entries)
    with stop_signals(scheduler.stop), table:
        scheduler.run(INTERVALS[options.on], table.show)
    if scheduler.stop_reason and scheduler.count(State.STOPPED):
        say(f"stopped ({scheduler.stop_reason}): {scheduler.count(State.FINISHED)} of {len(runs)} runs have finished")
        say(f"the others go on by the same command:\n  {command}")
        return 0
    _plot(options.logdir, scheduler)
    failed = [entry for entry in scheduler.entries if entry.state is State.FAILED]
    for entry in failed:
        say(f"{entry.work.name} failed: {entry.why}; its output is in {entry.work.log}.err and .out")
    return int(bool(failed))


def _plot(logdir: Path, scheduler: "Scheduler") -> None:
    """Write and print what `plot` makes of the runs that have been evaluated."""
    seen = [entry.work.logdir for entry in scheduler.entries if entry.work.progress.eval_return is not None]
    if seen:
        files = ["--out", str(logdir / "curves.png"), "--json", str(logdir / "curves.json"), "--overwrite"]
        plot.prepare([*map(str, seen), *files])()
