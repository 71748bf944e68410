"""report: one HTML page about a run: returns, videos, what its world model predicts and what its parts do."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.commands import Job, say
from agent.commands.parser import (
    PROGRAM,
    Parser,
    add_overwrite,
    add_playing,
    check_at_least,
    check_target,
    load_agent,
    written,
)

if TYPE_CHECKING:
    from agent.learning.agent import Agent

HELD_OUT_SEED = 500_000  # far from the seeds of training and of evaluations


def prepare(arguments: list[str]) -> Job:
    """Load a run's agent; the job plays held-out episodes and writes the page."""
    parser = Parser("report")
    parser.add_argument("--logdir", type=Path, required=True, help="the run's folder")
    parser.set_defaults(agent=None)
    add_playing(parser, HELD_OUT_SEED)
    parser.add_argument("--out", type=Path, help="an .html file (default: <logdir>/report.html)")
    parser.add_argument("--episodes", type=int, default=8, help="held-out episodes, at least 4 (default: 8)")
    add_overwrite(parser)
    options, _ = parser.parse(arguments)
    check_at_least(options, episodes=4, seed=0)
    path = options.out if options.out is not None else options.logdir / "report.html"
    if path.suffix != ".html":
        raise ValueError(f"out: got '{path}', expected a name ending in .html")
    check_target(path, "out", options.out is None or options.overwrite)
    agent = load_agent(options)
    from agent.evaluation.curves import load_run
    from agent.learning.agent import Agent

    if not isinstance(agent, Agent):
        raise ValueError(f"report: got a run of {agent.config.algo}, which has no world model, expected one of aime")
    if agent.config.env.size == 0:
        raise ValueError("report: got an agent of vectors alone (env.size 0), expected one that sees frames")
    load_run(options.logdir)  # a folder without metrics is refused before an episode is played
    return lambda: _report(agent, path, options)


def _report(agent: "Agent", path: Path, options: argparse.Namespace) -> int:
    from agent.report.page import write_report
    from agent.video.dreams import ShortEpisodeError

    is_old = path.exists()
    try:
        size = write_report(agent, options.logdir, path, options.episodes, options.seed, say)
    except ShortEpisodeError as error:  # known only after the episodes were played; nothing has been written yet
        say(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    say(f"{written(path, is_old)} ({size / 1e6:.1f} MB)")
    return 0
