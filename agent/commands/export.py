"""export: a run's agent as one file."""

import argparse
import json
import re
import subprocess
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.commands import Job, say
from agent.commands.parser import Parser, add_overwrite, check_target, written

if TYPE_CHECKING:
    from agent.run_folder.agent_file import Card
    from agent.run_folder.weights import Weights

ROOT = Path(__file__).resolve().parents[2]


def prepare(arguments: list[str]) -> Job:
    """Load a run's agent; the job writes its file."""
    parser = Parser("export")
    parser.add_argument("--logdir", type=Path, required=True, help="the run's folder")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, named .aime")
    add_overwrite(parser)
    add_commit(parser)
    options, _ = parser.parse(arguments)
    from agent.run_folder.agent_file import SUFFIX, write_agent_file

    if options.out.suffix != SUFFIX:
        raise ValueError(f"out: got '{options.out}', expected a name ending in {SUFFIX}")
    check_target(options.out, "out", options.overwrite)
    card, weights = exported(options.logdir, chosen_commit(options))
    is_old = options.out.exists()

    def job() -> None:
        size = write_agent_file(options.out, card, weights)
        say(describe(card))
        say(f"{written(options.out, is_old)} ({size / 1e6:.2f} MB)")

    return job


def add_commit(parser: Parser) -> None:
    """Add --commit, for commands that write a card."""
    text = "commit of this repository that the run was trained with (default: that of this checkout)"
    parser.add_argument("--commit", help=text)


def chosen_commit(options: argparse.Namespace) -> str | None:
    """Return --commit, or the commit of this checkout; None where this is none. ValueError for no commit's name."""
    if options.commit is not None:
        if re.fullmatch("[0-9a-f]{7,40}", options.commit) is None:
            raise ValueError(f"commit: got '{options.commit}', expected 7 to 40 hexadecimal digits")
        return str(options.commit)
    if (ROOT / ".git").exists():
        with suppress(OSError, subprocess.SubprocessError):  # no git, or a folder of somebody else's
            command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    return None


def exported(logdir: Path, commit: str | None) -> "tuple[Card, Weights]":
    """Return a run's card, and the weights of its newest good checkpoint that acting and dreaming need.

    FileNotFoundError without a run or a checkpoint; ValueError for a baseline's run.
    """
    from agent.commands.doctor.checks import version
    from agent.run_folder.agent_file import Card
    from agent.run_folder.load import is_run, load_agent, trained_frames
    from agent.run_folder.logger import read_metrics
    from agent.run_folder.weights import for_acting, weights_of

    if not is_run(logdir):
        raise FileNotFoundError(f"logdir: got '{logdir}', expected a folder with a run (no config.yaml in it)")
    agent = load_agent(logdir, "cpu")
    returns = {row["env_frames"]: row.get("eval_return") for row in read_metrics(logdir / "metrics.jsonl")}
    card = Card(
        config=asdict(agent.config),
        action_dim=agent.action_dim,
        is_discrete=agent.is_discrete,
        updates=agent.updates,
        env_frames=trained_frames(logdir),
        version=version(),
        commit=commit,
        curve=[[frames, value] for frames, value in returns.items() if value is not None],
        evaluation=stored_evaluation(logdir / "evaluation.json", agent.updates),
    )
    return card, for_acting(weights_of(agent))


def stored_evaluation(path: Path, updates: int) -> dict[str, dict[str, Any]] | None:
    """Return what `evaluate` wrote of a run after as many updates, played without a planner; None if it did not."""
    from agent.run_folder.agent_file import SCORES
    from agent.run_folder.schema import check

    with suppress(OSError, ValueError, KeyError, TypeError):  # a file of the user's: the run is what matters
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["updates"] == updates and found.get("planner") is None:
            scores = {mode: {key: found[mode][key] for key in SCORES} for mode in ("deterministic", "sample")}
            check(scores, dict.fromkeys(scores, SCORES), "evaluation")
            return scores
    return None


def describe(card: "Card") -> str:
    """Return a line about an agent."""
    found = "no evaluation of these weights in the run's folder (`evaluate` writes one)"
    if card.evaluation is not None:
        scores = card.evaluation["deterministic"]
        found = f"return {scores['mean']:.1f} over {len(scores['returns'])} deterministic episodes"
    return f"{card.config['task']} after {card.env_frames:,} env_frames, seed {card.config['seed']}: {found}"
