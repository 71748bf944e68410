"""Shared parts of run_agent.py's commands: options with one-line errors, and the config that a command line selects.

Importing this module does not import torch.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from agent.config.files import load_config, parse_value
from agent.config.nested import differences, flatten, merge
from agent.config.presets import ALIASES, parse_overrides, parse_settings
from agent.config.settings import Config
from world_model.settings import as_declared, declared, from_mapping, unknown_key

if TYPE_CHECKING:
    from agent.learning.agent import Agent
    from agent.stable_baselines.baselines import Baseline

PROGRAM = "aime" if Path(sys.argv[0]).stem == "aime" else "run_agent.py"  # the name that the user typed


def hint(*words: object) -> str:
    """Return a command to copy, called as the user called this one: "aime evaluate --logdir 'runs/my run'"."""
    typed = sys.argv[0]
    if PROGRAM == "aime":
        program = [PROGRAM if _is_found(PROGRAM, typed) else typed]
    else:
        python = next((name for name in ("python", "python3") if _is_found(name, sys.executable)), None)
        if python is None:  # as in `make train`: the virtual environment is not activated
            is_here = Path(sys.executable).is_relative_to(Path.cwd())
            python = os.path.relpath(sys.executable) if is_here else sys.executable
        program = [python, typed if Path(typed).name == PROGRAM else PROGRAM]
    return shlex.join([*program, *map(str, words)])


def _is_found(name: str, path: str) -> bool:
    """Return whether typing `name` runs the program at `path`. Links are not followed: a venv's python is a link."""
    found = shutil.which(name)
    return found is not None and os.path.abspath(found) == os.path.abspath(path)


def config_keys() -> list[str]:
    """Return every setting of a run as a dotted key."""
    return list(declared(Config))


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ValueError, so that all errors of this program look alike."""

    def __init__(self, command: str, epilog: str | None = None) -> None:
        shape = partial(argparse.HelpFormatter, max_help_position=28, width=100)
        super().__init__(f"{PROGRAM} {command}", allow_abbrev=False, epilog=epilog, formatter_class=shape)
        for kind in (int, float):  # options with `type=int` read their numbers as settings do: 1e5, 100_000
            self.register("type", kind, partial(_number, kind))

    def error(self, message: str) -> NoReturn:
        """Raise ValueError instead of printing the usage and exiting."""
        raise ValueError(message.removeprefix("argument --"))

    def parse(self, arguments: list[str], settings: Sequence[str] = ()) -> tuple[argparse.Namespace, list[str]]:
        """Return the command's options and the remaining `--<setting>` arguments.

        ValueError, with the nearest known name, for an option that is neither.
        """
        options, rest = self.parse_known_args(arguments)
        known = [*settings, *(name.removeprefix("--") for name in self._option_string_actions if name[:2] == "--")]
        for argument in rest:
            name = argument.removeprefix("--").split("=")[0]
            if not argument.startswith("--") and not settings:
                raise ValueError(f"got '{argument}', expected options like --logdir only")
            if argument.startswith("--") and name not in known:
                raise ValueError(unknown_key(name, known))
        return options, rest


def _number(kind: type, text: str) -> Any:
    """Parse an option's number for argparse, which puts the option's name in front of an error."""
    try:
        return as_declared("option", parse_value(text, kind), kind)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("option: ")) from None


def task_file_name(task: str) -> str:
    """Return a task as a part of a file's name: unusual characters become "_"."""
    return re.sub(r"[^\w.-]", "_", task)


def default_logdir(config: Config) -> Path:
    """Return runs/<task>-seed<N>, the task as `task_file_name`.

    A baseline's algorithm stands between the two, and "offline" with `train --offline`.
    If that folder does not exist but runs/<task>, the default of earlier versions, holds the same run, return that.
    """
    task = task_file_name(config.task)
    kind: list[str] = [] if config.algo == "aime" else [config.algo]
    kind += [] if config.offline_data is None else ["offline"]
    folder, older = Path("runs", "-".join([task, *kind, f"seed{config.seed}"])), Path("runs", task)
    if not folder.exists() and config.offline_data is None:
        with contextlib.suppress(ValueError, OSError):
            saved = load_config(older / "config.yaml")
            if (saved.task, saved.algo, saved.seed) == (config.task, config.algo, config.seed):
                return older
    return folder


def new_config(options: argparse.Namespace, overrides: list[str], tell: Callable[[str], None]) -> Config:
    """Return a new run's config: the named preset, else the one that fits the hardware, with `overrides` applied."""
    return parse_overrides(overrides, choose_preset(options.preset, tell), options.task)


def choose_preset(preset: str | None, tell: Callable[[str], None]) -> str:
    """Return the named preset, or if there is none that which fits the hardware; `tell` gets a line about it."""
    if preset is None:
        import torch

        preset, reason = ("gpu", "a GPU was found") if torch.cuda.is_available() else ("cpu", "no GPU was found")
        tell(f"preset {preset}: {reason} (choose another with --preset)")
    elif preset in ALIASES:
        tell(f"preset {preset}: now called {ALIASES[preset]}")
    return preset


def resumed_config(saved: Config, logdir: Path, options: argparse.Namespace, overrides: list[str]) -> Config:
    """Return `saved`, the config of the run in `logdir`, with the command line's changes.

    Only keys of `agent.config.settings.MAY_CHANGE` may change; ValueError if the command line changes another one.
    """
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


def run_parser(command: str) -> Parser:
    """Return a parser with the options that every command takes that plays with a trained agent."""
    parser = Parser(command)
    add_source(parser)
    parser.add_argument("--task", help="task to play, of the same actions (default: the agent's own)")
    add_playing(parser)
    return parser


def add_playing(parser: Parser, seed: int = 0) -> None:
    """Add --seed, with its default, and --device."""
    parser.add_argument("--seed", type=int, default=seed, help=f"seed of the first episode (default: {seed})")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if available)")


def add_source(parser: Parser, required: bool = True) -> None:
    """Add --logdir and --agent, of which one has to be given, or one may be if not `required`."""
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument("--logdir", type=Path, help="the run's folder")
    text = "instead of a run: a file of `export`, the name of an agent that comes with the package, or hub:user/name"
    source.add_argument("--agent", help=text)


def default_file(options: argparse.Namespace, folder: str, name: str) -> Path:
    """Return where a result goes unless the user says: into the run's folder, or here, named after the agent.

    With --task the name ends in that task: evaluation-walker_walk-distract.json.
    """
    if options.task is not None:
        path = Path(name)
        name = f"{path.stem}-{task_file_name(options.task)}{path.suffix}"
    if options.logdir is not None:
        return options.logdir / folder / name
    from agent.run_folder.places import short_name

    return Path(f"{short_name(options.agent)}-{name}")


def add_planner(parser: Parser) -> None:
    """Add --planner, for commands whose agent may also act by planning."""
    text = "act by planning in the world model, or not: mppi or none (default: as in training)"
    choices = get_args(declared(Config)["behavior.planner"])
    parser.add_argument("--planner", choices=choices, help=f"{text}; --planner.horizon 8 and so on set it up")


def planner_settings() -> list[str]:
    """Return the settings of a planner as dotted keys."""
    return [key for key in config_keys() if key.startswith("planner.")]


def load_agent(options: argparse.Namespace, planning: Sequence[str] = ()) -> "Agent | Baseline":
    """Load the agent or baseline of --logdir or --agent, and check that its task can be played and rendered here.

    A --task becomes that of its config. planning: arguments `--planner.<setting>`, which replace those of the run.
    ValueError where nothing plans, and for a task of other actions. `options.place` becomes the folder or file that it
    came from, `options.trained_on` the task that it learned.
    """
    import torch

    from agent.evaluation.episodes import agent_env
    from agent.run_folder.agent_file import read_agent_file
    from agent.run_folder.places import find_agent
    from agent.stable_baselines.load import load
    from agent.training.threads import environment_threads

    settings = parse_settings(planning)
    if options.logdir is not None and options.logdir.is_file():
        raise ValueError(f"logdir: got '{options.logdir}', a file, expected a run's folder; --agent reads files")
    agent: Agent | Baseline
    if options.agent is not None:
        options.place = find_agent(options.agent)
        agent = read_agent_file(options.place).agent(options.device)
    else:
        options.place = options.logdir
        agent = load(options.place, options.device)
    _plan(agent, getattr(options, "planner", None), settings)
    torch.set_num_threads(environment_threads() or agent.config.threads or torch.get_num_threads())
    with agent_env(agent.config) as env:
        space = env.action_space
    options.trained_on, task = agent.config.task, getattr(options, "task", None)
    if task is not None:
        agent.config = replace(agent.config, task=task)
        with agent_env(agent.config) as env:
            if env.action_space != space:
                got, expected = f"{task} with actions {env.action_space}", f"{space} as in {options.trained_on}"
                raise ValueError(f"task: got {got}, expected {expected}")
            if agent.config.with_vector(env.vector_dim) != agent.config:  # refuses other vectors itself
                got = f"{task} with {env.vector_dim} numbers beside the frame"
                raise ValueError(f"task: got {got}, expected frames alone as in {options.trained_on}")
    return agent


def _plan(agent: "Agent | Baseline", name: str | None, settings: dict[str, Any]) -> None:
    """Let the agent act by a planner of these settings, or by its policy alone; None leaves it as it was trained."""
    if name is None and not settings:
        return
    if not hasattr(agent, "plan_with"):
        raise ValueError(f"planner: got a run of {agent.config.algo}, which has no world model, expected one of aime")
    name = agent.config.behavior.planner if name is None else name
    if name == "none" and settings:
        raise ValueError(f"{next(iter(settings))}: got a value, but nothing plans; expected --planner mppi with it")
    agent.plan_with(name, **{key.removeprefix("planner."): value for key, value in settings.items()})


def check_at_least(options: argparse.Namespace, **least: int) -> None:
    """Raise ValueError for the first option below its lower bound."""
    for name, bound in least.items():
        value = getattr(options, name)
        if value < bound:
            raise ValueError(f"{name}: got {value}, expected at least {bound}")


def check_writable(folder: Path, name: str) -> None:
    """Raise ValueError unless the folder, or its nearest existing parent, is writable."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"{name}: got '{folder}', but '{place}' is a file, expected a folder")
    try:
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError
        with TemporaryFile(dir=place):  # os.access is always true for root, even on a read-only file system
            pass
    except OSError:
        raise ValueError(f"{name}: got '{folder}', but '{place}' is not writable") from None


def add_overwrite(parser: Parser) -> None:
    """Add --overwrite, for commands that write to a file of the user's choice."""
    parser.add_argument("--overwrite", action="store_true", help="replace the named file if it exists")


def check_target(path: Path, name: str, may_replace: bool = True) -> None:
    """Raise ValueError unless `path` can be written, or if it exists and may not be replaced."""
    if path.is_dir():
        raise ValueError(f"{name}: got '{path}', a folder, expected the name of a file")
    if path.exists() and not may_replace:
        raise ValueError(f"{name}: got '{path}', which exists, expected a new name (or --overwrite)")
    check_writable(path.parent, name)


def write_json(path: Path, value: object) -> str:
    """Write a value as JSON, creating folders; return the line that reports it."""
    is_old = path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return written(path, is_old)


def written(path: Path, is_old: bool) -> str:
    """Return the line that says where a result is, and whether it replaced an older one."""
    return f"written to {path}{', replacing the previous one' if is_old else ''}"
