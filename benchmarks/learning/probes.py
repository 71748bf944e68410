"""Measure what each pillar of a trained run carries: linear probes of the simulator's state, and of the future.

    python -m benchmarks.learning.probes runs/walker_walk [--episodes 16] [--seed 500000] [--mode sample|deterministic]
        [--json out.json]

The agent plays held-out episodes. Ridge regressions learn from the first half of them and are judged on the others; R²
is 1 - error / error of the learned mean, so that 0 means "says nothing". Intervals are over the judged episodes (95 %,
bootstrap). What a linear probe cannot read may still be there.

Sources: frame (the trunk's features, averaged over 2 x 2 cells), z (the posterior's mean), g (the carry), c (the
Perceiver's context), slots (their vectors, centres and shares of the frame). For the mixture: mutual information of the
most responsible component with the rewards that follow, the speed and the number of contacts, each in four bins, beside
that of components that were shifted within shuffled episodes. For the context: R² of later latents. A pillar that is
off has no figures.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import Tensor

from agent.report.held_out import play
from agent.report.inference import infer
from agent.report.information import INFORMATION, mixture_figures
from agent.report.probes import Figures, Judged, probe, r2, resamples, state_figures, together, with_interval
from agent.run_folder.load import load_agent
from benchmarks.harness.command import Command, Report
from benchmarks.learning.results import HELD_OUT_SEED

AHEAD = (1, 5, 15)  # steps to a predicted latent


def context_figures(parts: Mapping[str, Tensor], actions: Tensor, counts: Tensor) -> Figures:
    """Return R² of the posterior's mean k steps later (all dimensions together) without and with c, and the gain."""
    found: Figures = defaultdict(dict)
    given, length = {**parts, "a": actions.cpu()}, actions.shape[1]

    def score(source: str, k: int) -> Tensor:
        judged = probe(together(given, source)[:, :-k], parts["z"][:, k:])
        return r2(Judged(*(errors.sum(-1, keepdim=True) for errors in judged)), counts)[:, 0]

    for k in (k for k in AHEAD if "c" in parts and k <= length // 2):
        for known in ("g", "z g"):
            scores = {"without c": score(f"{known} a", k), "with c": score(f"{known} c a", k)}
            scores["gain"] = scores["with c"] - scores["without c"]
            for name, values in scores.items():
                found[name][f"{known} a, +{k}"] = with_interval(values)
    return found


def measure(given: argparse.Namespace) -> Report:
    """Play, read and probe -> {"run", "state", "mixture", "context"}; the last three are empty without figures."""
    agent = load_agent(given.logdir)
    data = play(agent, given.episodes, given.seed, given.mode)
    inference = infer(agent, data, given.seed)
    parts, shares = inference.sources, inference.responsibilities
    counts = resamples(given.episodes - given.episodes // 2, given.seed)
    returns = float(data.rewards.sum(1).mean())
    return {
        "run": {"task": agent.config.task, "updates": agent.updates, "rows": data.rewards.numel(), "return": returns},
        "state": state_figures(parts, data.simulator, counts),
        "mixture": {} if shares is None else mixture_figures(shares, data.rewards, data.simulator, given.seed),
        "context": context_figures(parts, data.actions, counts),
    }


def table_of(columns: Figures, first: str, form: str, title: str | None = None) -> Table:
    """Return a table of figures with intervals, column -> row -> figure; `first` heads the names of the rows."""
    table = Table(first, *columns, title=title)
    for row in next(iter(columns.values())):
        table.add_row(row, *(form.format(**column[row]) for column in columns.values()))
    return table


def show(console: Console, report: Report) -> None:
    """Print a table for each part of the report that has figures."""
    state, mixture, context = report["state"], report["mixture"], report["context"]
    spans, title = "{value:.3f} [{low:.3f}, {high:.3f}]", "{task} after {updates} updates".format(**report["run"])
    if state:
        console.print(table_of(state["r2"], "R² of", "{value:.2f}", title))
        if state["gain"]:
            console.print(table_of(state["gain"], "R² beyond z g", spans))
    if mixture:
        counts = "{components} components, {in use:.1f} in use, {in use by index:.1f} by the most responsible; nats"
        table = Table("component and", *INFORMATION, title=counts.format(**mixture))
        for name, figures in mixture["information"].items():
            table.add_row(name, *(f"{value:.3f}" for value in figures.values()))
        console.print(table)
    if context:
        console.print(table_of(context, "R² of the latent", spans))


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, probe, print, write."""
    command = Command("learning.probes", __doc__)
    command.add_argument("logdir", type=Path)
    command.add_number("episodes", 16, "at least four: the first half is learned from", least=4)
    command.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the first held-out episode")
    command.add_argument("--mode", choices=("sample", "deterministic"), default="sample", help="of the actions")
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
