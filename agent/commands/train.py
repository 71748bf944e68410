"""train: start a new run, or resume one."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.commands import Job, say
from agent.commands.parser import (
    PROGRAM,
    Parser,
    check_writable,
    config_keys,
    default_logdir,
    hint,
    new_config,
    resumed_config,
)
from agent.run_folder.wandb_writer import WandbWriter, check_wandb

if TYPE_CHECKING:
    from agent.config.settings import Config
    from agent.stable_baselines.baseline_trainer import BaselineTrainer
    from agent.training.trainer import Trainer

HELP = """Every setting is an option too: --env_frames 100000, --seed 1, --replay.batch_size 8, --any.key value;
config.yaml in a run's folder lists them all. The same command again resumes the run."""


def prepare(arguments: list[str]) -> Job:
    """Take the config from the options, or from an existing run's folder, and build the trainer."""
    parser = Parser("train", epilog=HELP)
    parser.add_argument("--task", help="task to learn, such as walker_walk (default: cartpole_swingup)")
    parser.add_argument("--preset", help="cpu, gpu, reference or debug (default: gpu if there is a GPU, else cpu)")
    parser.add_argument("--logdir", type=Path, help="the run's folder (default: runs/<task>-seed<N>)")
    parser.add_argument("--resume", action="store_true", help="resume the run in --logdir; an error if there is none")
    parser.add_argument("--max_minutes", type=float, help="stop with a checkpoint after this many minutes")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--wandb", action="store_true", help="also log the metrics to Weights & Biases")
    options, overrides = parser.parse(arguments, config_keys())
    if options.max_minutes is not None and not options.max_minutes > 0:
        raise ValueError(f"max_minutes: got {options.max_minutes}, expected a positive number")
    if options.wandb:
        check_wandb()
    tell = (lambda _: None) if options.quiet else say
    logdir = options.logdir
    if logdir is None:
        logdir = default_logdir(new_config(options, overrides, lambda _: None))
    check_writable(logdir, "logdir")
    payload = None
    if (logdir / "config.yaml").is_file() or any((logdir / "checkpoints").glob("*.pt")):
        from agent.run_folder.load import run_config

        saved, payload = run_config(logdir, tell)
        config = resumed_config(saved, logdir, options, overrides)
        if payload is None:
            tell(f"{logdir}: no checkpoint yet; starting from the beginning")
    elif options.resume:
        raise FileNotFoundError(f"logdir: got '{logdir}', expected a folder with a run (no config.yaml in it)")
    else:
        config = new_config(options, overrides, tell)
    return _training(config, payload, logdir, options, tell)


def _training(
    config: "Config",
    payload: dict[str, Any] | None,
    logdir: Path,
    options: argparse.Namespace,
    tell: Callable[[str], None],
) -> Job:
    """Build the trainer, which checks task, rendering and replay budget, and return the job that runs it."""
    resume = payload is not None
    if payload is not None:
        from agent.training.due_work import is_over

        env_frames, updates = (payload["counters"][name] for name in ("env_frames", "updates"))
        if is_over(payload, config):
            line = f"{logdir}: all {config.env_frames:,} env_frames are spent; continue with a larger --env_frames"
            return lambda: tell(line)
        tell(f"resuming {logdir} at {env_frames:,} env_frames, {updates:,} updates")
    from agent.training.threads import overload

    trainer = _trainer_class(config.algo)(config, logdir, resume, options.max_minutes, options.quiet)
    tell(
        f"task {config.task}  algo {config.algo}  preset {config.preset}  device {trainer.agent.device}  "
        f"parameters {trainer.agent.num_parameters:,}  env_frames {config.env_frames:,}  logdir {logdir}  "
        f"threads {trainer.threads}"
    )
    if load := overload():
        tell(load)

    def job() -> int:
        if options.wandb:
            trainer.logger.attach(WandbWriter(logdir, asdict(config), resume, tell))
        try:
            trainer.run()
        except (Exception, SystemExit) as error:  # an environment may call sys.exit
            from agent.training.recovery import keep_traceback

            trainer.fail(keep_traceback(error, logdir))
        if trainer.has_failed:
            print(f"{PROGRAM}: error: {trainer.stop_reason}", file=sys.stderr)
        if trainer.stop_reason:
            reason = "failed" if trainer.has_failed else trainer.stop_reason
            tell(f"stopped ({reason}) at {trainer.env_frames:,} env_frames; resume with")
            tell(f"  {hint('train', '--logdir', logdir, '--resume')}")
        tell("next:")
        tell(f"  {hint('evaluate', '--logdir', logdir)}")
        tell(f"  {hint('record', '--logdir', logdir)}")
        return int(trainer.has_failed)

    return job


def _trainer_class(algo: str) -> "type[Trainer | BaselineTrainer]":
    """Return the trainer class of an algorithm; only a baseline imports Stable-Baselines3."""
    if algo == "aime":
        from agent.training.trainer import Trainer

        return Trainer
    from agent.stable_baselines.baseline_trainer import BaselineTrainer

    return BaselineTrainer
