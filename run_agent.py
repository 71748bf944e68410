"""The command line: train | evaluate | record. It parses, checks and wires; what is computed lives in `agent`.

Heavy imports wait until a command needs them: --help answers at once, and environment workers, which import this
file again, stay light.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.command_line import (
    PROGRAM,
    Parser,
    check_at_least,
    check_writable,
    config_keys,
    default_task,
    new_config,
    resumed_config,
)
from world_model.config import unknown_key

if TYPE_CHECKING:
    from agent.agent import Agent
    from agent.config import Config
    from agent.evaluation import Evaluation

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
say = partial(print, flush=True)  # at once, even where stdout is a file


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


def _rendering_error() -> type[Exception]:
    """Looked up only when there is an error already: its package costs gymnasium's import."""
    from envs.rendering import RenderingError

    return RenderingError


def prepare(command: str, arguments: list[str]) -> Job:
    """Check a command's arguments and return what is left to do."""
    if command not in COMMANDS:
        raise ValueError(unknown_key(command, list(COMMANDS), "command"))
    return COMMANDS[command](arguments)


# ---------------------------------------------------------------- train


def prepare_train(arguments: list[str]) -> Job:
    """A run's config from the options, or from its folder where it exists; then the trainer."""
    parser = Parser("train", epilog=TRAIN_HELP)
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


# ---------------------------------------------------------------- evaluate, record


def prepare_evaluate(arguments: list[str]) -> Job:
    """Load the agent of a run; play deterministic, sampled and random episodes."""
    parser = _run_parser("evaluate")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of each policy (default: 10)")
    parser.add_argument("--json", type=Path, help="where the figures go (default: <logdir>/evaluation.json)")
    options, _ = parser.parse(arguments)
    check_at_least(options, episodes=1, seed=0)
    path = options.json if options.json is not None else options.logdir / "evaluation.json"
    if path.is_dir():
        raise ValueError(f"json: got '{path}', a folder, expected the name of a file")
    check_writable(path.parent, "json")
    agent = _load_agent(options)

    def job() -> None:
        from agent.evaluation import evaluate, random_evaluation

        seeds = f"seeds {options.seed} to {options.seed + options.episodes - 1}"
        say(f"{agent.config.task}: {options.episodes} episodes each, {seeds}, {agent.updates:,} updates")
        results = {}
        for mode in ("deterministic", "sample"):
            results[mode] = evaluate(agent, options.episodes, options.seed, mode)
            say(_table_line(mode, results[mode]))
        results["random"] = random_evaluation(agent.config, options.episodes, options.seed)
        say(_table_line("random", results["random"]))
        found = {"updates": agent.updates} | {mode: result.to_json() for mode, result in results.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
        say(f"written to {path}")

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
    options, _ = parser.parse(arguments)
    check_at_least(options, episodes=1, seed=0, size=16)
    name = "dream.mp4" if options.dream else "record.mp4"
    path = options.out if options.out is not None else options.logdir / "videos" / name
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"out: got '{path}', expected a name that ends in .mp4 or .gif")
    check_writable(path.parent, "out")
    agent = _load_agent(options)

    def job() -> None:
        from agent.recording import record, record_dream

        if options.dream:
            scores = record_dream(agent, path, options.seed)
            ahead = "  ".join(f"+{k} {value:.2f}" for k, value in scores.open_loop.items())
            say(f"PSNR in dB: reconstruction {scores.reconstruction:.2f}  mean frame {scores.mean_frame:.2f}")
            say(f"  open loop, steps ahead: {ahead}")
        else:
            for result in record(agent, path, options.episodes, options.seed, options.size):
                say(f"return {result.total:.2f} in {result.length} agent_steps")
        say(f"written to {path}")

    return job


def _load_agent(options: argparse.Namespace) -> "Agent":
    """The agent of --logdir, after making sure that its task can be played and drawn here."""
    from agent.agent import Agent
    from agent.evaluation import agent_env

    agent = Agent.load(options.logdir, options.device)
    with agent_env(agent.config):
        return agent


def _run_parser(command: str) -> Parser:
    parser = Parser(command)
    parser.add_argument("--logdir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; the others follow (default: 0)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    return parser


COMMANDS: dict[str, Callable[[list[str]], Job]] = {
    "train": prepare_train,
    "evaluate": prepare_evaluate,
    "record": prepare_record,
}

if __name__ == "__main__":
    sys.exit(main())
