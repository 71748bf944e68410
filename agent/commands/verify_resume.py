"""verify-resume: a short run of the given settings, once uninterrupted and once stopped and killed, compared."""

from pathlib import Path
from tempfile import TemporaryDirectory

from agent.commands import Job, say
from agent.commands.parser import Parser, check_at_least, config_keys, new_config

HELP = """Every setting of `train` is an option here too. The run is shortened to --updates updates, and deleted at the
end. Exit status 0 if both runs are identical bit for bit, 1 if they are not."""


def prepare(arguments: list[str]) -> Job:
    """Take a new run's config from the options; the job runs it twice, shortened, and reports differences."""
    parser = Parser("verify-resume", epilog=HELP)
    parser.add_argument("--task", help="task to learn (default: cartpole_swingup)")
    parser.add_argument("--preset", help="cpu, gpu, reference or debug (default: gpu if there is a GPU, else cpu)")
    parser.add_argument("--updates", type=int, default=60, help="length of the run (default: 60)")
    parser.add_argument("--stops", type=int, default=3, help="interruptions, SIGTERM and kill -9 in turn (default: 3)")
    options, overrides = parser.parse(arguments, config_keys())
    check_at_least(options, updates=4, stops=1)
    config = new_config(options, overrides, say)
    if config.algo != "aime":
        raise ValueError(f"algo: got '{config.algo}', expected 'aime': a baseline's run is not repeatable bit for bit")
    if config.env.collectors is not None:
        raise ValueError(f"env.collectors: got {config.env.collectors}, expected null: their runs are not repeatable")

    def job() -> int:
        from agent.training.verification import short_config, verify_resume

        with TemporaryDirectory(prefix="aime-verify-") as folder:
            short = short_config(config, options.updates)
            try:
                verdict = verify_resume(short, Path(folder), options.stops, config.seed, say)
            except RuntimeError as error:  # a run failed by itself
                say(str(error))
                return 1
        say(f"compared {verdict.tensors} tensors after {verdict.updates} updates, and {verdict.lines} lines of metrics")
        if verdict.differences:
            say(f"NOT the same: {len(verdict.differences)} differ, first {', '.join(verdict.differences[:3])}")
            say("runs repeat bit for bit only on a CPU with the same number of threads")
            return 1
        stops = f"{len(verdict.stops)} stop{'s' * (len(verdict.stops) != 1)}"
        say(f"the same bit for bit, after {stops} ({', '.join(verdict.stops)})")
        return 0

    return job
