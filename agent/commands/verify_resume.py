"""verify-resume: a short run of one's own settings, once straight and once stopped and killed; are they the same?"""

from pathlib import Path
from tempfile import TemporaryDirectory

from agent.commands import Job, say
from agent.commands.parser import Parser, check_at_least, config_keys, new_config

HELP = """Every setting of `train` is an option here too. The run is cut down to --updates updates, and nothing of it is
kept. Exit status 0 where both runs are the same bit for bit, 1 where they are not."""


def prepare(arguments: list[str]) -> Job:
    """A new run's config from the options, cut short; two runs of it, and what they differ in."""
    parser = Parser("verify-resume", epilog=HELP)
    parser.add_argument("--task", help="task to learn (default: cartpole_swingup)")
    parser.add_argument("--preset", help="cpu, gpu, reference or debug (default: gpu where there is one, else cpu)")
    parser.add_argument("--updates", type=int, default=60, help="length of the run (default: 60)")
    parser.add_argument("--stops", type=int, default=3, help="SIGTERM and kill -9 in turns (default: 3)")
    options, overrides = parser.parse(arguments, config_keys())
    check_at_least(options, updates=4, stops=1)
    config = new_config(options, overrides, say)
    if config.algo != "aime":
        raise ValueError(f"algo: got '{config.algo}', expected 'aime': a baseline's run is not repeated bit for bit")

    def job() -> int:
        from agent.training.verification import short_config, verify_resume

        with TemporaryDirectory(prefix="aime-verify-") as folder:
            short = short_config(config, options.updates)
            try:
                verdict = verify_resume(short, Path(folder), options.stops, config.seed, say)
            except RuntimeError as error:  # a run fails where it was not stopped
                say(str(error))
                return 1
        say(f"compared {verdict.tensors} tensors after {verdict.updates} updates, and {verdict.lines} lines of metrics")
        if verdict.differences:
            say(f"NOT the same: {len(verdict.differences)} differ, first {', '.join(verdict.differences[:3])}")
            say("only a CPU with the same number of threads repeats a run bit for bit")
            return 1
        say(f"the same bit for bit, after {len(verdict.stops)} stops ({', '.join(verdict.stops)})")
        return 0

    return job
