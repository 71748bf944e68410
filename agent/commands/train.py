"""train: a new run, or one that goes on."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent.command_line import PROGRAM, Parser, check_writable, config_keys, default_task, new_config, resumed_config
from agent.commands import Job, say

if TYPE_CHECKING:
    from agent.config import Config

HELP = """Every setting is an option too: --env_frames 100000, --seed 1, --replay.batch_size 8, --any.key value;
config.yaml in a run's folder lists them all. The same command again goes on with the run."""


def prepare(arguments: list[str]) -> Job:
    """A run's config from the options, or from its folder where it exists; then the trainer."""
    parser = Parser("train", epilog=HELP)
    parser.add_argument("--task", help="task to learn, such as walker_walk (default: cartpole_swingup)")
    parser.add_argument("--preset", help="cpu, gpu, seed or debug (default: gpu where there is one, else cpu)")
    parser.add_argument("--logdir", type=Path, help="the run's folder (default: runs/<task>)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --logdir; an error without one")
    parser.add_argument("--max_minutes", type=float, help="end with a checkpoint after so many minutes")
    parser.add_argument("--quiet", action="store_true", help="show nothing but errors")
    options, overrides = parser.parse(arguments, config_keys())
    if options.max_minutes is not None and not options.max_minutes > 0:
        raise ValueError(f"max_minutes: got {options.max_minutes}, expected a positive number")
    tell = (lambda _: None) if options.quiet else say
    logdir = options.logdir if options.logdir is not None else Path("runs") / default_task(options)
    check_writable(logdir, "logdir")
    if (logdir / "config.yaml").is_file():
        config = resumed_config(logdir, options, overrides)
    elif options.resume:
        raise FileNotFoundError(f"logdir: got '{logdir}', expected a folder with a run (no config.yaml in it)")
    else:
        config = new_config(options, overrides, tell)
    return _training(config, logdir, options, tell)


def _training(config: "Config", logdir: Path, options: argparse.Namespace, tell: Callable[[str], None]) -> Job:
    """The trainer, built (which checks task, rendering and replay budget), and its run."""
    from agent.checkpoint import checkpoint_paths, load_newest
    from agent.trainer import Trainer

    resume = bool(checkpoint_paths(logdir / "checkpoints"))
    if resume:
        counters = load_newest(logdir / "checkpoints")[0]["counters"]
        if counters["env_frames"] >= config.env_frames:
            line = f"{logdir}: all {config.env_frames:,} env_frames are spent; go on with a larger --env_frames"
            return lambda: tell(line)
        tell(f"resuming {logdir} at {counters['env_frames']:,} env_frames, {counters['updates']:,} updates")
    elif (logdir / "config.yaml").is_file():
        tell(f"{logdir}: there is no checkpoint yet; starting again")
    trainer = Trainer(config, logdir, resume, options.max_minutes, options.quiet)
    tell(
        f"task {config.task}  preset {config.preset}  device {trainer.agent.device}  "
        f"parameters {trainer.agent.num_parameters:,}  env_frames {config.env_frames:,}  logdir {logdir}"
    )

    def job() -> None:
        trainer.run()
        if trainer.stop_reason:
            tell(f"stopped ({trainer.stop_reason}) at {trainer.env_frames:,} env_frames; go on with")
            tell(f"  python {PROGRAM} train --logdir {logdir} --resume")
        tell("next:")
        tell(f"  python {PROGRAM} evaluate --logdir {logdir}")
        tell(f"  python {PROGRAM} record --logdir {logdir}")

    return job
