"""The command line: train | evaluate | record. It parses, checks and wires; what is computed lives in `agent`.

Heavy imports wait until a command needs them: --help answers at once, and environment workers, which import this
file again, stay light.
"""

import argparse
import difflib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from agent.config import Config
    from agent.evaluation import Evaluation

PROGRAM = "run_agent.py"
USAGE = f"""usage: {PROGRAM} <command> [options]

commands:
  train      train an agent on a task, or go on with a run
  evaluate   play whole episodes: mean return, standard deviation, 95 % interval, beside random actions
  record     write a video of whole episodes, or of what the world model dreams (--dream)

A first run:
  python {PROGRAM} train --task cartpole_swingup --logdir runs/demo
  python {PROGRAM} evaluate --logdir runs/demo
  python {PROGRAM} record --logdir runs/demo --dream

`{PROGRAM} <command> --help` lists a command's options."""
TRAIN_HELP = """Every setting is an option too: --env_frames 100000, --seed 1, --replay.batch_size 8, --any.key value;
config.yaml in a run's folder lists them all. The same command again goes on with the run."""

Job = Callable[[], None]


class Parser(argparse.ArgumentParser):
    """argparse whose errors are raised, so that every error of this program looks the same."""

    def error(self, message: str) -> NoReturn:
        """ValueError instead of usage, message and exit."""
        raise ValueError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0, 2 after bad input (one line on stderr), 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    try:
        try:
            # Everything that can be wrong with the input shows here, before anything is written.
            job = prepare(arguments[0], arguments[1:])
        except (ValueError, OSError, _rendering_error()) as error:
            print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        job()
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    return 0


def prepare(command: str, arguments: list[str]) -> Job:
    """Check a command's arguments and return what is left to do."""
    if command not in COMMANDS:
        raise ValueError(f"unknown command '{command}'; the nearest known one is '{_nearest(command, COMMANDS)}'")
    return COMMANDS[command](arguments)


# ---------------------------------------------------------------- train


def prepare_train(arguments: list[str]) -> Job:
    """A run's config from the options, or from its folder where it exists; then the trainer."""
    parser = Parser(f"{PROGRAM} train", allow_abbrev=False, epilog=TRAIN_HELP, formatter_class=Formatter)
    parser.add_argument("--task", help="task to learn, such as walker_walk (default: cartpole_swingup)")
    parser.add_argument("--preset", help="cpu, gpu, seed or debug (default: gpu where there is one, else cpu)")
    parser.add_argument("--logdir", type=Path, help="the run's folder (default: runs/<task>)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --logdir; an error without one")
    parser.add_argument("--max_minutes", type=float, help="end with a checkpoint after so many minutes")
    parser.add_argument("--quiet", action="store_true", help="show nothing but errors")
    options, overrides = parser.parse_known_args(arguments)
    if options.max_minutes is not None and not options.max_minutes > 0:
        raise ValueError(f"max_minutes: got {options.max_minutes}, expected a positive number")
    say: Callable[[str], None] = (lambda _: None) if options.quiet else print
    _check_names(overrides, parser)
    logdir = options.logdir if options.logdir is not None else Path("runs") / _task_name(options)
    if (logdir / "config.yaml").is_file():
        config = _resumed_config(logdir, options, overrides)
    elif options.resume:
        raise FileNotFoundError(f"logdir: got '{logdir}', expected a folder with a run (no config.yaml in it)")
    else:
        config = _new_config(options, overrides, say)
    _check_writable(logdir, "logdir")
    return _training(config, logdir, options, say)


def _training(config: "Config", logdir: Path, options: argparse.Namespace, say: Callable[[str], None]) -> Job:
    """The trainer, built (which checks task, rendering and replay budget), and its run."""
    from agent.checkpoint import checkpoint_paths, load_newest
    from agent.trainer import Trainer

    resume = bool(checkpoint_paths(logdir / "checkpoints"))
    if resume:
        counters = load_newest(logdir / "checkpoints")[0]["counters"]
        if counters["env_frames"] >= config.env_frames:
            line = f"{logdir}: all {config.env_frames:,} env_frames are spent; go on with a larger --env_frames"
            return lambda: say(line)
        say(f"resuming {logdir} at {counters['env_frames']:,} env_frames, {counters['updates']:,} updates")
    trainer = Trainer(config, logdir, resume, options.max_minutes, options.quiet)
    say(
        f"task {config.task}  preset {config.preset}  device {trainer.agent.device}  "
        f"parameters {trainer.agent.num_parameters:,}  env_frames {config.env_frames:,}  logdir {logdir}"
    )

    def job() -> None:
        trainer.run()
        if trainer.stop_reason:
            say(f"stopped ({trainer.stop_reason}) at {trainer.env_frames:,} env_frames; go on with")
            say(f"  python {PROGRAM} train --logdir {logdir} --resume")
        say("next:")
        say(f"  python {PROGRAM} evaluate --logdir {logdir}")
        say(f"  python {PROGRAM} record --logdir {logdir}")

    return job


def _task_name(options: argparse.Namespace) -> str:
    """The task that names the default folder."""
    from agent.config import Config, load_preset

    if options.task is not None:
        return options.task
    return load_preset(options.preset)["task"] if options.preset is not None else Config.task


def _new_config(options: argparse.Namespace, overrides: list[str], say: Callable[[str], None]) -> "Config":
    from agent.config import parse_overrides

    preset = options.preset
    if preset is None:
        import torch

        preset, reason = ("gpu", "a GPU was found") if torch.cuda.is_available() else ("cpu", "no GPU was found")
        say(f"preset {preset}: {reason} (choose another with --preset)")
    return parse_overrides(overrides, preset, options.task)


def _resumed_config(logdir: Path, options: argparse.Namespace, overrides: list[str]) -> "Config":
    """The run's own config; what the command line names may differ from it in a few keys only."""
    from agent.config import differences, flatten, load_config, merge, parse_overrides
    from world_model.config import from_mapping

    saved = load_config(logdir / "config.yaml")
    preset = options.preset if options.preset is not None else saved.preset
    task = options.task if options.task is not None else saved.task
    wanted = dict(flatten(asdict(parse_overrides(overrides, preset, task))))
    named = {argument.removeprefix("--").split("=")[0] for argument in overrides if argument.startswith("--")}
    changes = {key: wanted[key] for key in named | {"preset", "task"}}
    config = from_mapping(type(saved), merge(asdict(saved), changes))
    found = differences(saved, config)
    if found:
        raise ValueError(f"logdir: '{logdir}' holds another run ({'; '.join(found)}); choose another --logdir")
    return config


# ---------------------------------------------------------------- evaluate, record


def prepare_evaluate(arguments: list[str]) -> Job:
    """Load the agent of a run; play deterministic, sampled and random episodes."""
    parser = _run_parser("evaluate")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of each policy (default: 10)")
    parser.add_argument("--json", type=Path, help="where the figures go (default: <logdir>/evaluation.json)")
    options = parser.parse_args(arguments)
    _check_counts(options)
    path = options.json if options.json is not None else options.logdir / "evaluation.json"
    if path.is_dir():
        raise ValueError(f"json: got '{path}', a folder, expected the name of a file")
    _check_writable(path.parent, "json")
    from agent.agent import Agent

    agent = Agent.load(options.logdir, options.device)

    def job() -> None:
        from agent.evaluation import evaluate, random_evaluation

        seeds = f"seeds {options.seed} to {options.seed + options.episodes - 1}"
        print(f"{agent.config.task}: {options.episodes} episodes each, {seeds}, {agent.updates:,} updates")
        results = {}
        for mode in ("deterministic", "sample"):
            results[mode] = evaluate(agent, options.episodes, options.seed, mode)
            print(_table_line(mode, results[mode]))
        results["random"] = random_evaluation(agent.config, options.episodes, options.seed)
        print(_table_line("random", results["random"]))
        found = {"updates": agent.updates} | {mode: result.to_json() for mode, result in results.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
        print(f"written to {path}")

    return job


def _table_line(mode: str, result: "Evaluation") -> str:
    line = f"  {mode:<14} mean {result.mean:8.2f}"
    if len(result.returns) == 1:
        return line
    return f"{line}  std {result.std:7.2f}  95 % interval [{result.interval_low:.2f}, {result.interval_high:.2f}]"


def prepare_record(arguments: list[str]) -> Job:
    """Load the agent of a run; write a video of its episodes, or of its world model's dream."""
    parser = _run_parser("record")
    parser.add_argument("--out", type=Path, help="an .mp4 or .gif file (default: <logdir>/videos/record.mp4)")
    parser.add_argument("--episodes", type=int, default=1, help="episodes in the video (default: 1)")
    parser.add_argument("--size", type=int, default=256, help="side of its frames in pixels (default: 256)")
    parser.add_argument("--dream", action="store_true", help="one episode: real | reconstruction | open-loop dream")
    options = parser.parse_args(arguments)
    _check_counts(options)
    name = "dream.mp4" if options.dream else "record.mp4"
    path = options.out if options.out is not None else options.logdir / "videos" / name
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"out: got '{path}', expected a name that ends in .mp4 or .gif")
    _check_writable(path.parent, "out")
    from agent.agent import Agent

    agent = Agent.load(options.logdir, options.device)

    def job() -> None:
        from agent.recording import record, record_dream

        if options.dream:
            scores = record_dream(agent, path, options.seed)
            ahead = "  ".join(f"+{k} {value:.2f}" for k, value in scores.open_loop.items())
            print(f"PSNR in dB: reconstruction {scores.reconstruction:.2f}  mean frame {scores.mean_frame:.2f}")
            print(f"  open loop, steps ahead: {ahead}")
        else:
            for result in record(agent, path, options.episodes, options.seed, options.size):
                print(f"return {result.total:.2f} in {result.length} agent_steps")
        print(f"written to {path}")

    return job


def _run_parser(command: str) -> Parser:
    parser = Parser(f"{PROGRAM} {command}", allow_abbrev=False, formatter_class=Formatter)
    parser.add_argument("--logdir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; the others follow (default: 0)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    return parser


# ---------------------------------------------------------------- checks


def _check_names(overrides: list[str], parser: Parser) -> None:
    """Unknown options are held against the command's own as well as the settings."""
    from agent.config import Config, flatten

    keys = [key for key, _ in flatten(asdict(Config()))]
    known = keys + [option.removeprefix("--") for option in parser._option_string_actions if option.startswith("--")]
    for argument in overrides:
        name = argument.removeprefix("--").split("=")[0]
        if argument.startswith("--") and name not in known:
            raise ValueError(f"unknown key '{name}'; the nearest known one is '{_nearest(name, known)}'")


def _check_counts(options: argparse.Namespace) -> None:
    for name, least in (("episodes", 1), ("seed", 0), ("size", 16)):
        value = getattr(options, name, least)
        if value < least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")


def _check_writable(folder: Path, name: str) -> None:
    """The folder, or the nearest one above it that exists, can be written to."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"{name}: got '{folder}', but '{place}' is a file, expected a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{name}: got '{folder}', but '{place}' is not writable")


def _nearest(name: str, known: Sequence[str] | dict[str, Callable[[list[str]], Job]]) -> str:
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def _rendering_error() -> type[Exception]:
    """Looked up only when an error is there already."""
    from envs.rendering import RenderingError

    return RenderingError


class Formatter(argparse.HelpFormatter):
    """Help in a hundred columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=100)


COMMANDS: dict[str, Callable[[list[str]], Job]] = {
    "train": prepare_train,
    "evaluate": prepare_evaluate,
    "record": prepare_record,
}

if __name__ == "__main__":
    sys.exit(main())
