"""The command line: names the commands, prints help and errors. Each command is a module of `agent.commands`.

Heavy imports wait until a command needs them: --help answers at once, and environment workers, which import this
file again, stay light.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

try:
    import agent

    place, own = Path([*getattr(agent, "__path__", []), agent.__file__][0]), Path(__file__).resolve().with_name("agent")
    if place.resolve() != own:
        raise ImportError(f"agent: got '{place}', which hides '{own}', expected a Python path without another agent")
    from agent.commands import Job
    from agent.commands.parser import PROGRAM, hint
    from agent.training.screen import lasting_screen
    from world_model.settings import unknown_key
except ModuleNotFoundError:  # a library is missing
    raise
except ImportError as error:  # a user's folder that hides one of our packages: one line
    print(f"run_agent.py: error: {error}", file=sys.stderr)
    sys.exit(2)

COMMANDS = {
    "train": "train an agent on a task, or resume a run",
    "evaluate": "play whole episodes: returns with 95 % intervals, beside random actions and published scores",
    "record": "write a video of whole episodes, or of the world model's dreams (--dream, --imagine)",
    "report": "write one HTML page about a run: returns, videos, what its world model predicts and what its parts do",
    "doctor": "check this machine (versions, rendering, speed, memory) and estimate the hours of a run",
    "export": "write a run's agent into one file, for --agent, agent.load and train --from",
    "push": "upload an agent to the Hugging Face Hub, with its model card",
    "collect": "play episodes of random actions or of an agent, and keep them as data",
    "dataset": "recorded episodes to and from Minari",
    "plot": "plot learning curves of runs, mean and 95 % interval over seeds, beside published ones",
    "sweep": "train tasks x seeds x values of settings, on this machine or a cluster",
    "verify-resume": "train briefly with and without interruptions, and compare the two bit for bit",
}
USAGE = f"""usage: {PROGRAM} <command> [options]

commands:
{"".join(f"  {name:<15}{text}" + chr(10) for name, text in COMMANDS.items())}
Nothing trained yet, an agent that comes with the package:
  {hint("record", "--agent", "ball_in_cup_catch", "--dream")}

A first run:
  {hint("train", "--task", "cartpole_swingup", "--logdir", "runs/demo")}
  {hint("evaluate", "--logdir", "runs/demo")}
  {hint("record", "--logdir", "runs/demo", "--dream")}
  {hint("report", "--logdir", "runs/demo")}

`{PROGRAM} <command> --help` lists a command's options; `{PROGRAM} --version` prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 after a failed job, 2 after bad input, 130 after Ctrl-C.

    Errors of environments, files and encoders are one line on stderr. A terminal that closes does not end the command.
    """
    with lasting_screen():
        return _run(list(sys.argv[1:] if argv is None else argv))


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments == ["--version"]:
        from agent.commands.doctor.checks import version

        print(f"aime {version()}")
        return 0
    try:
        try:
            # All checks of the input run here, before anything is written.
            job = prepare(arguments[0], arguments[1:])
        except _input_errors() as error:
            _print_error(error)
            return 2
        try:
            return job() or 0
        except _outside_errors() as error:
            _print_error(error)
            return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130


def _print_error(error: Exception) -> None:
    print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)


def _input_errors() -> tuple[type[Exception], ...]:
    return ValueError, *_outside_errors()


def _outside_errors() -> tuple[type[Exception], ...]:
    """Return the errors that this program did not cause: files, environments, rendering, encoders.

    Called only once an error has occurred, because most of these types need gymnasium's import.
    """
    from envs.driver import EnvironmentFailure
    from envs.encoders import EncodingError
    from envs.rendering import RenderingError

    return OSError, EnvironmentFailure, EncodingError, RenderingError


def prepare(command: str, arguments: list[str]) -> Job:
    """Check a command's arguments and return the job that does its work."""
    if command not in COMMANDS:
        raise ValueError(unknown_key(command, list(COMMANDS), "command"))
    module = import_module(f"agent.commands.{command.replace('-', '_')}")
    job: Job = module.prepare(arguments)
    return job


if __name__ == "__main__":
    sys.exit(main())
