"""evaluate: whole episodes of a run's agent, deterministic and sampled, beside random actions and published scores."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.commands import Job, say
from agent.commands.parser import (
    add_overwrite,
    add_planner,
    check_at_least,
    check_target,
    default_file,
    load_agent,
    planner_settings,
    run_parser,
    write_json,
)

if TYPE_CHECKING:
    from agent.evaluation.episodes import Evaluation, TrainedPlayer


def prepare(arguments: list[str]) -> Job:
    """Load a run's agent; the job plays deterministic, sampled and random episodes."""
    parser = run_parser("evaluate")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of each policy (default: 10)")
    text = "file for the results (default: evaluation.json or evaluation-TASK.json of the run)"
    parser.add_argument("--json", type=Path, help=text)
    add_overwrite(parser)
    parser.add_argument("--latex", action="store_true", help="also print a row for a LaTeX table")
    add_planner(parser)
    options, planning = parser.parse(arguments, planner_settings())
    check_at_least(options, episodes=1, seed=0)
    path = options.json if options.json is not None else default_file(options, "", "evaluation.json")
    check_target(path, "json", options.json is None or options.overwrite)
    agent = load_agent(options, planning)
    from agent.run_folder.load import trained_frames

    env_frames = trained_frames(options.place)
    return lambda: _evaluate(agent, env_frames, options, path)


def _evaluate(agent: "TrainedPlayer", env_frames: int, options: argparse.Namespace, path: Path) -> None:
    from agent.evaluation.episodes import cut_line, evaluate, random_evaluation
    from agent.evaluation.references import nearest_references
    from agent.evaluation.table import evaluation_line, heading, latex_lines, reference_table

    config, episodes, seed = agent.config, options.episodes, options.seed
    repeat = config.env.action_repeat
    is_own = config.task == options.trained_on
    where = "" if is_own else f" of {options.trained_on}"
    say(f"{config.task} after {env_frames:,} env_frames{where} and {agent.updates:,} updates")
    say(f"{episodes} episodes each, seeds {seed} to {seed + episodes - 1}, repeat {repeat}, render {config.env.render}")
    planner = planner_of(agent)
    if planner is not None:
        settings = ", ".join(f"{name} {value:g}" for name, value in planner["settings"].items())
        say(f"planner {planner['name']} ({settings}): {planner['ms_per_decision']:.1f} ms a decision")
    say(heading())
    results: dict[str, Evaluation] = {}
    for name, play in {
        "deterministic": lambda: evaluate(agent, episodes, seed, "deterministic"),
        "sample": lambda: evaluate(agent, episodes, seed, "sample"),
        "random": lambda: random_evaluation(config, episodes, seed),
    }.items():
        results[name] = play()
        say(evaluation_line(name, results[name]))
        if line := cut_line(config, results[name].is_cut):
            say(f"  {line}")
    references = nearest_references(config.task, env_frames) if is_own else []  # those agents learned the task itself
    if references:
        say(f"\n{reference_table(references, repeat, env_frames)}")
    if options.latex:
        say()
        say("\n".join(latex_lines(config.task, results, references, repeat, env_frames)))
    found = {
        "task": config.task,
        "trained_on": options.trained_on,
        "updates": agent.updates,
        "env_frames": env_frames,
        "planner": planner,
        **{name: result.to_json() for name, result in results.items()},
        "references": [reference._asdict() for reference in references],
    }
    say(write_json(path, found))


def planner_of(agent: "TrainedPlayer") -> dict[str, Any] | None:
    """Return the name, settings and cost of the planner by which an agent acts, or None."""
    from agent.evaluation.episodes import decision_ms

    planner = getattr(agent, "planner", None)
    if planner is None:
        return None
    return {"name": planner.name, "settings": vars(planner.config), "ms_per_decision": decision_ms(agent)}
