"""evaluate: whole episodes of a run's agent, deterministic and sampled, beside random actions."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from agent.command_line import check_at_least, check_writable, load_agent, run_parser
from agent.commands import Job, say

if TYPE_CHECKING:
    from agent.evaluation import Evaluation


def prepare(arguments: list[str]) -> Job:
    """Load the agent of a run; play deterministic, sampled and random episodes."""
    parser = run_parser("evaluate")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of each policy (default: 10)")
    parser.add_argument("--json", type=Path, help="where the figures go (default: <logdir>/evaluation.json)")
    options, _ = parser.parse(arguments)
    check_at_least(options, episodes=1, seed=0)
    path = options.json if options.json is not None else options.logdir / "evaluation.json"
    if path.is_dir():
        raise ValueError(f"json: got '{path}', a folder, expected the name of a file")
    check_writable(path.parent, "json")
    agent = load_agent(options)

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
