"""train: start a new run, or resume one."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.commands import Job, say
from agent.commands.doctor.checks import version
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
from agent.config.nested import flatten, merge
from agent.config.presets import parse_settings, setting_texts
from agent.run_folder.trackers import DEFAULT, TRACKERS, check_trackers
from agent.training.ranks import RankFailed, Ranks, join
from envs.wording import one_line
from world_model.settings import from_mapping

if TYPE_CHECKING:
    from agent.config.settings import Config
    from agent.run_folder.datasets import Dataset
    from agent.run_folder.weights import Start
    from agent.stable_baselines.baseline_trainer import BaselineTrainer
    from agent.training.trainer import Trainer

HELP = """Every setting is an option too: --env_frames 100000, --seed 1, --replay.batch_size 8, --any.key value;
config.yaml in a run's folder lists them all. The same command again resumes the run."""


class _Run(NamedTuple):
    """What a command line asks for."""

    config: "Config"
    payload: dict[str, Any] | None  # the checkpoint to resume from
    logdir: Path
    options: argparse.Namespace
    start: "Start | None"
    dataset: "Dataset | None"

    @property
    def action_dim(self) -> int:
        """The action dimensions of a run that steps no environment."""
        if self.payload is not None:
            return int(self.payload["agent"]["action_dim"])
        assert self.dataset is not None
        return self.dataset.action_dim

    @property
    def vector_dim(self) -> int | None:
        """The width of its vectors, None for frames alone."""
        return self.config.world_model.vector_dim if self.dataset is None else self.dataset.vector_dim


def prepare(arguments: list[str]) -> Job:
    """Take the config from the options, or from an existing run's folder, and build the trainer; with all ranks."""
    ranks = join()
    with ranks.reported_once():
        with ranks.together():
            asked = _read(arguments, ranks)
        _check_alike(asked, ranks)
        return _training(asked, ranks)


def _parser() -> Parser:
    parser = Parser("train", epilog=HELP)
    parser.add_argument("--task", help="task to learn, such as walker_walk (default: cartpole_swingup)")
    parser.add_argument("--preset", help="cpu, gpu, reference or debug (default: gpu if there is a GPU, else cpu)")
    parser.add_argument("--logdir", type=Path, help="the run's folder (default: runs/<task>-seed<N>)")
    text = "start with the weights of another agent: a run's folder, or what --agent of `evaluate` takes"
    parser.add_argument("--from", dest="source", help=f"{text}; settings too, unless --preset is given")
    text = "learn from recorded episodes first: a folder of `collect`, a run's folder, .npz files, or minari:NAME"
    parser.add_argument("--offline", metavar="DATA", help=f"{text}; without --env_frames, from nothing else")
    parser.add_argument("--resume", action="store_true", help="resume the run in --logdir; an error if there is none")
    parser.add_argument("--max_minutes", type=float, help="stop with a checkpoint after this many minutes")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    text = f"where the metrics go beside metrics.jsonl: any of {', '.join(TRACKERS)} (default: {' '.join(DEFAULT)})"
    parser.add_argument("--log", nargs="*", metavar="TRACKER", default=DEFAULT, help=text)
    both = (*DEFAULT, "wandb")
    text = f"the same as --log {' '.join(both)}"
    parser.add_argument("--wandb", dest="log", action="store_const", const=both, help=text)
    return parser


def _read(arguments: list[str], ranks: Ranks) -> _Run:
    options, overrides = _parser().parse(arguments, config_keys())
    if options.max_minutes is not None and not options.max_minutes > 0:
        raise ValueError(f"max_minutes: got {options.max_minutes}, expected a positive number")
    check_trackers(options.log)
    options.quiet |= not ranks.is_first
    tell = _teller(options)
    start = None
    if options.source is not None:
        from agent.run_folder.load import starting_point

        start = starting_point(options.source)
    dataset = None
    if options.offline is not None:
        if ranks.count > 1:
            raise ValueError(f"offline: got {ranks.count} processes, expected one")
        from agent.run_folder.datasets import open_dataset

        dataset = open_dataset(options.offline)
    given = _Given(options, overrides, start, dataset)
    logdir = options.logdir
    if logdir is None:
        logdir = default_logdir(_new_config(given, lambda _: None))
    check_writable(logdir, "logdir")
    payload = None
    if (logdir / "config.yaml").is_file() or any((logdir / "checkpoints").glob("*.pt")):
        from agent.run_folder.load import run_config

        saved, payload = run_config(logdir, tell)
        config = resumed_config(saved, logdir, options, overrides)
        is_new = payload is None
        _check_source("from", None if start is None else start.name, config.started_from, is_new, logdir)
        _check_source("offline", None if dataset is None else dataset.name, config.offline_data, is_new, logdir)
        if payload is not None:
            _check_played(config, saved, payload)
        if payload is None:
            tell(f"{logdir}: no checkpoint yet; starting from the beginning")
    elif options.resume:
        raise FileNotFoundError(f"logdir: got '{logdir}', expected a folder with a run (no config.yaml in it)")
    else:
        config = _new_config(given, tell)
    if dataset is not None:
        dataset.check(config)
    ranks.share(config)
    ranks.use_device(config.device)
    return _Run(config, payload, logdir, options, start, dataset)


def _check_alike(asked: _Run, ranks: Ranks) -> None:
    """Raise ValueError unless all ranks are about to do the same."""
    if ranks.count > 1:
        import torch

        versions = {"version of aime": version(), "version of torch": torch.__version__}
        updates = None if asked.payload is None else asked.payload["counters"]["updates"]
        place = {"logdir": str(asked.logdir), "updates of the newest checkpoint": updates}
        ranks.check_same(versions | dict(flatten(asdict(asked.config))) | place)


def _teller(options: argparse.Namespace) -> Callable[[str], None]:
    return (lambda _: None) if options.quiet else say


class _Given(NamedTuple):
    """What the settings of a new run follow from."""

    options: argparse.Namespace
    overrides: list[str]
    start: "Start | None"
    dataset: "Dataset | None"


def _new_config(given: _Given, tell: Callable[[str], None]) -> "Config":
    """Return a new run's config, with a dataset one whose settings are those of the episodes."""
    if given.dataset is None:
        return _started_config(given.options, given.overrides, given.start, tell)
    options, texts = argparse.Namespace(**vars(given.options)), setting_texts(given.overrides)
    if texts.get("algo", "aime") != "aime":
        raise ValueError(f"offline: got algo {texts['algo']}, expected aime")
    implied = given.dataset.settings()
    task = implied.pop("task", None)
    options.task = task if options.task is None else options.task
    implied = {key: json.dumps(value) if isinstance(value, dict) else str(value) for key, value in implied.items()}
    implied = {key: "null" if text == "None" else text for key, text in implied.items()} | texts
    if "train.offline_updates" not in texts:
        from agent.training.due_work import online_updates

        usual = _started_config(options, _arguments(implied), given.start, lambda _: None)
        implied["train.offline_updates"] = str(online_updates(usual))
    config = _started_config(options, _arguments({"env_frames": "0"} | implied), given.start, tell)
    return replace(config, offline_data=given.dataset.name)


def _arguments(texts: dict[str, str]) -> list[str]:
    return [f"--{key}={text}" for key, text in texts.items()]


def _started_config(
    options: argparse.Namespace, overrides: list[str], start: "Start | None", tell: Callable[[str], None]
) -> "Config":
    """Return a new run's config: with a start that agent's own, unless a preset is named, with `overrides` applied."""
    if start is None:
        return new_config(options, overrides, tell)
    if (algo := setting_texts(overrides).get("algo", "aime")) != "aime":
        raise ValueError(f"from: got algo {algo}, expected aime, whose weights {start.name} holds")
    if options.preset is not None:
        config = new_config(options, overrides, tell)
    else:
        changes = parse_settings(overrides)
        if "size" in changes:
            raise ValueError(f"size: got '{changes['size']}', expected none with --from, or a --preset beside it")
        changes |= {} if options.task is None else {"task": options.task}
        of_any_machine = replace(start.config, device="auto", threads=0)
        config = from_mapping(type(start.config), merge(asdict(of_any_machine), changes))
        tell(f"settings of {start.name} (choose others with --preset)")
    return replace(config, started_from=start.name)


def _check_source(option: str, name: str | None, noted: str | None, is_new: bool, logdir: Path) -> None:
    """Raise ValueError if a run in `logdir` started from something else, or `is_new` and needs it once more."""
    if name is not None and name != noted:
        expected = "none" if noted is None else noted
        raise ValueError(f"{option}: got {name}, expected {expected} as in '{logdir}'; choose another --logdir")
    if name is None and is_new and noted is not None:
        raise ValueError(f"{option}: got none, expected {noted}: '{logdir}' has no checkpoint yet")


def _check_played(config: "Config", saved: "Config", payload: dict[str, Any]) -> None:
    """Raise ValueError if a run that has played already is asked for other offline updates, or to play nothing."""
    before, updates = saved.train.offline_updates, config.train.offline_updates
    frames = payload["counters"]["env_frames"]
    if frames > 0 and updates != before:
        raise ValueError(f"train.offline_updates: got {updates}, expected {before}: the run has begun to play")
    if frames > 0 and config.env_frames == 0:
        raise ValueError(f"env_frames: got 0, expected at least 1: the run has played {frames:,} of them")


def _evaluation_note(config: "Config", action_dim: int, vector_dim: int | None) -> str:
    """Return a line where the task of a run that steps no environment cannot be played here, else nothing.

    ValueError if it can be played, but takes other actions than the episodes have, or shows other vectors.
    """
    from agent.evaluation.episodes import agent_env

    try:
        with agent_env(config) as env:
            assert env.action_space.shape is not None
            found = env.action_space.shape[0], env.vector_dim
    except Exception as error:  # whatever it is, the run can do without
        return f"no evaluations: {config.task} cannot be played here ({one_line(error, 160)})"
    if found[0] != action_dim:
        raise ValueError(f"task: got {config.task} with {found[0]} action dimensions, expected {action_dim}")
    config.with_vector(vector_dim).with_vector(found[1])
    return ""


def _origins(asked: _Run) -> list[str]:
    """Return lines about what a run sees and begins with, and about evaluations where it steps no environment."""
    config, payload, *_, start, dataset = asked
    lines = []
    if config.env.size == 0:
        lines.append("env.size 0: vectors alone; pillars 1 and 4, which read frames, are off")
    if start is not None and payload is None:
        lines.append(f"starting from {start.name}")
    if dataset is not None and payload is None:
        rows = f"{len(dataset.lengths):,} episodes, {dataset.num_rows:,} rows"
        lines.append(f"learning from {dataset.name}: {rows}, {config.train.offline_updates:,} updates")
    has_actions = payload is not None or dataset is not None  # otherwise the trainer refuses the config
    if config.env_frames == 0 and has_actions:
        lines.append(_evaluation_note(config, asked.action_dim, asked.vector_dim))
    return [line for line in lines if line]


def _training(asked: _Run, ranks: Ranks) -> Job:
    """Build the trainer, which checks task, rendering and replay budget, and return the job that runs it."""
    config, payload, logdir, options, *_ = asked
    tell = _teller(options)
    if payload is not None:
        from agent.training.due_work import is_over

        env_frames, updates = (payload["counters"][name] for name in ("env_frames", "updates"))
        if is_over(payload, config):
            offline = f"{updates:,} updates are made and " if config.env_frames == 0 else ""
            spent = f"all {config.env_frames:,} env_frames are spent"
            return lambda: tell(f"{logdir}: {offline}{spent}; continue with a larger --env_frames")
        tell(f"resuming {logdir} at {env_frames:,} env_frames, {updates:,} updates")
    from agent.training.threads import overload

    lines = _origins(asked)
    trainer = _make_trainer(asked, ranks)
    for line in lines:
        tell(line)
    tell(
        f"task {config.task}  algo {config.algo}  preset {config.preset}  device {trainer.agent.device}  "
        f"parameters {trainer.agent.num_parameters:,}  env_frames {config.env_frames:,}  logdir {logdir}  "
        f"threads {trainer.threads}"
    )
    if config.env.collectors is not None:
        tell(
            f"collectors {config.env.collectors}: runs with them are not repeatable, and a resumed one begins its "
            "running episodes anew (docs/scaling.md)"
        )
    if load := overload():
        tell(load)

    def job() -> int:
        is_reported = ranks.is_first
        try:
            trainer.run()
        except RankFailed as error:
            trainer.fail(str(error))
        except (Exception, SystemExit) as error:  # an environment may call sys.exit
            from agent.run_folder.shards import rank_folder
            from agent.training.recovery import keep_traceback

            is_reported = True  # whatever the rank: the others do not know about it
            trainer.fail(keep_traceback(error, rank_folder(logdir, ranks.index)))
        if trainer.has_failed and is_reported:
            print(f"{PROGRAM}: error: {trainer.stop_reason}", file=sys.stderr)
        if trainer.stop_reason:
            reason = "failed" if trainer.has_failed else trainer.stop_reason
            tell(f"stopped ({reason}) at {trainer.env_frames:,} env_frames; resume with")
            again = hint("train", "--logdir", logdir, "--resume")
            tell(f"  {again if ranks.count == 1 else 'the same command of torchrun'}")
        tell("next:")
        tell(f"  {hint('evaluate', '--logdir', logdir)}")
        tell(f"  {hint('record', '--logdir', logdir)}")
        if not trainer.has_failed:
            ranks.leave()
        return int(trainer.has_failed)

    return job


def _make_trainer(asked: _Run, ranks: Ranks) -> "Trainer | BaselineTrainer":
    """Make the trainer of the config's algorithm; only a baseline imports Stable-Baselines3."""
    config, payload, logdir, options, start, dataset = asked
    usual = (config, logdir, payload is not None, options.max_minutes, options.quiet)
    if config.algo == "aime":
        from agent.training.trainer import Trainer

        return Trainer(*usual, start=start, ranks=ranks, dataset=dataset, log=options.log)
    from agent.stable_baselines.baseline_trainer import BaselineTrainer

    return BaselineTrainer(*usual, log=options.log)
