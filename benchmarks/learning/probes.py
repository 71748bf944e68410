"""Measure what each pillar of a trained run carries: linear probes of the simulator's state, and of the future.

    python -m benchmarks.learning.probes runs/walker_walk [--episodes 16] [--seed 500000] [--mode sample|deterministic]
        [--json out.json]

The agent plays held-out episodes. Ridge regressions learn from the first half of them and are judged on the others; R²
is 1 - error / error of the learned mean, so that 0 means "says nothing". Intervals are over the judged episodes (95 %,
bootstrap). What a linear probe cannot read may still be there.

Sources: frame (the trunk's features, averaged over 2 x 2 cells), z (the posterior's mean), g (the carry), c (the
Perceiver's context), slots (their vectors, centres and shares of the frame). For the mixture: mutual information of the
most responsible component with the rewards that follow and with the speed, each in four bins, beside that of components
that were shifted within shuffled episodes. For the context: R² of later latents. A pillar that is off has no figures.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from agent.learning.agent import Agent
from agent.run_folder.load import load_agent
from benchmarks.harness.command import Command, Report
from benchmarks.learning.held_out import play
from world_model.attention_schema import centre_of_mass

SOURCES = ("frame", "z", "g", "c", "slots", "z g", "z g c", "z g slots")
ADDED = {"c": "z g c", "slots": "z g slots"}  # gains over "z g"
AHEAD = (1, 5, 15)  # steps to a predicted latent; rewards are summed over the last
PENALTIES = torch.logspace(-6, 3, 10, dtype=torch.float64)  # of the ridge regressions, per row
BINS, SHUFFLES, RESAMPLES = 4, 200, 2000
INFORMATION = ("entropy of bins", "information", "by chance", "95 % of chance", "excess")  # nats

Figures = dict[str, Any]
Index = NDArray[np.int64]


class Judged(NamedTuple):
    """Squared errors [E, Y] of a probe on each of E episodes, and those of the mean that was learned."""

    error: Tensor
    error_of_mean: Tensor


def ridge(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Return predictions of y for new rows [M, F] from rows x [N, F], y [N, Y]: [P, M, Y], P PENALTIES.

    w = argmin mean |y - ȳ - x w|² + penalty |w|² with x standardised, by an eigendecomposition of its correlations.
    """
    centre, scale = x.mean(0), x.std(0).clamp_min(1e-6)  # a constant column says nothing
    x, new = (x - centre) / scale, (new - centre) / scale
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    moments = vectors.T @ (x.T @ (y - y.mean(0))) / len(x)  # [F, Y]
    weights = vectors @ (moments / (values.clamp_min(0)[:, None] + PENALTIES[:, None, None]))  # [P, F, Y]
    return y.mean(0) + new @ weights


def probe(x: Tensor, y: Tensor) -> Judged:
    """Learn y [E, L, Y] from x [E, L, F] on the first half of the episodes and judge on the others; E is at least 4.

    Each variable's penalty is the one that does best on the last quarter of the former after learning from the rest.
    """
    x, y = x.double(), y.double()
    half = len(x) // 2
    rest = half - max(1, half // 4)

    def predict(learned: slice, judged: slice) -> Tensor:
        return ridge(x[learned].flatten(0, 1), y[learned].flatten(0, 1), x[judged].flatten(0, 1))

    tried = predict(slice(rest), slice(rest, half))
    best = (tried - y[rest:half].flatten(0, 1)).square().mean(1).argmin(0)  # [Y]
    found = predict(slice(half), slice(half, None))[best, :, torch.arange(len(best))].T
    truth, mean = y[half:], y[:half].mean((0, 1))
    return Judged((found.view_as(truth) - truth).square().sum(1), (mean - truth).square().sum(1))


def resamples(episodes: int, seed: int) -> Tensor:
    """Return how often each episode counts [1 + RESAMPLES, E]: once in the first row, then as the bootstrap draws."""
    drawn = np.random.default_rng(seed).multinomial(episodes, [1 / episodes] * episodes, RESAMPLES)
    return torch.from_numpy(np.concatenate([np.ones((1, episodes)), drawn]))


def r2(judged: Judged, counts: Tensor) -> Tensor:
    """Return R² [R, Y] under each row of `resamples`."""
    return 1 - counts @ judged.error / (counts @ judged.error_of_mean)


def with_interval(values: Tensor) -> dict[str, float]:
    """Return the first figure, that of all episodes, and the 95 % interval of the others: [R] -> value, low, high."""
    low, high = values[1:].quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return {"value": float(values[0]), "low": low, "high": high}


@torch.no_grad()
def read(agent: Agent, frames: Tensor, actions: Tensor, seed: int) -> dict[str, Tensor]:
    """Return all that is probed, [B, L, F] by name, and "responsibilities" [B, L, K] of a mixture, on the CPU."""
    model, parts = agent.model.eval(), defaultdict(list)
    generator = torch.Generator(agent.device).manual_seed(seed)
    for frame, action in zip(frames, actions, strict=True):  # one episode at a time bounds the memory
        observed = model.observe(frame[None], action[None], None, generator, sample=False)
        features, carry = observed.features[0], observed.states.carry
        found = {"frame": functional.avg_pool2d(features, 2).flatten(1), "z": observed.mean[0], "g": carry[0]}
        if model.perceiver is not None:
            found["c"] = observed.context[0]
        if model.attention is not None:
            seen = model.attention.posterior(features, carry[0])
            found["slots"] = torch.cat([seen.slots.flatten(1), centre_of_mass(seen.maps).flatten(1), seen.mass], -1)
        shares = model.prior(observed.states.prior_input).kl(observed.mean, observed.std)[1]
        if shares is not None and shares.shape[-1] > 1:
            found["responsibilities"] = shares[0]
        for name, part in found.items():
            parts[name].append(part.cpu())
    return {name: torch.stack(part) for name, part in parts.items()}


def together(parts: Mapping[str, Tensor], names: str) -> Tensor:
    """Return the parts named in "z g c" side by side."""
    return torch.cat([parts[name] for name in names.split()], -1)


def state_figures(parts: Mapping[str, Tensor], simulator: Mapping[str, Tensor], counts: Tensor) -> Figures:
    """Return R² of each simulator variable that varies from each source, and what c and slots add to z and g."""
    variables = {name: values for name, values in simulator.items() if values.std() > 1e-6}
    if not variables:
        return {}
    truth, found = torch.stack([*variables.values()], -1), {}
    for source in (s for s in SOURCES if all(name in parts for name in s.split())):
        found[source] = r2(probe(together(parts, source), truth), counts)

    def figures(scores: Tensor) -> Figures:
        rows = zip(variables, scores.T, strict=True)
        return {name: with_interval(row) for name, row in rows} | {"mean": with_interval(scores.mean(-1))}

    gains = {part: figures(found[source] - found["z g"]) for part, source in ADDED.items() if source in found}
    sizes = {source: together(parts, source).shape[-1] for source in found}
    return {"r2": {source: figures(scores) for source, scores in found.items()}, "gain": gains, "sizes": sizes}


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


def in_bins(values: NDArray[Any]) -> Index:
    """Return the number of each value's bin, BINS at most, as equally full as ties allow: equal values share a bin."""
    distinct, counts = np.unique(values, return_counts=True)
    below = counts.cumsum()[:-1] / values.size  # the share of values up to each possible end of a bin
    if not below.size:
        return np.zeros(values.shape, np.int64)
    ends = {int(np.abs(below - share).argmin()) for share in np.arange(1, BINS) / BINS}
    return np.searchsorted(distinct[sorted(ends)], values)


def entropy(shares: NDArray[Any]) -> float:
    """Return -Σ p ln p in nats."""
    held = shares[shares > 0]
    return float(-(held * np.log(held)).sum())


def mutual_information(a: Index, b: Index) -> float:
    """Return the mutual information in nats of two arrays of whole numbers from 0, from their counts."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a.ravel(), b.ravel()), 1 / a.size)
    return entropy(joint.sum(1)) + entropy(joint.sum(0)) - entropy(joint)


def shuffled(index: Index, random: np.random.Generator) -> Index:
    """Return the rows of index [B, L] in random order, each shifted in a circle: as autocorrelated, but unrelated."""
    return np.stack([np.roll(row, random.integers(len(row))) for row in random.permutation(index)])


def information(index: Index, values: NDArray[Any], seed: int) -> dict[str, float]:
    """Return how many nats index [B, L] says about the bins of values [B, L], what chance gives, and the difference."""
    random, bins = np.random.default_rng(seed), in_bins(values)
    found = mutual_information(index, bins)
    chance = [mutual_information(shuffled(index, random), bins) for _ in range(SHUFFLES)]
    mean, high = float(np.mean(chance)), float(np.quantile(chance, 0.95))
    of_bins = entropy(np.bincount(bins.ravel()) / bins.size)
    return dict(zip(INFORMATION, (of_bins, found, mean, high, found - mean), strict=True))


def mixture_figures(shares: Tensor, rewards: Tensor, simulator: Mapping[str, Tensor], seed: int) -> Figures:
    """Return the components in use, and what the most responsible one says about later rewards and the speed."""
    index, steps = shares.argmax(-1).numpy(), min(AHEAD[-1], rewards.shape[1] // 2)
    to_come = rewards.cpu().double()[:, 1:].unfold(1, steps, 1).sum(-1).numpy()  # [B, L - steps]
    found: Figures = {f"next {steps} rewards": information(index[:, :-steps], to_come, seed)}
    velocities = [values for name, values in simulator.items() if name.startswith("qvel/")]
    if velocities:
        found["speed"] = information(index, torch.stack(velocities).norm(dim=0).numpy(), seed)
    used = {
        "in use": float(np.exp(entropy(shares.mean((0, 1)).numpy()))),
        "in use by index": float(np.exp(entropy(np.bincount(index.ravel()) / index.size))),
    }
    return {"components": shares.shape[-1], **used, "information": found}


def measure(given: argparse.Namespace) -> Report:
    """Play, read and probe -> {"run", "state", "mixture", "context"}; the last three are empty without figures."""
    agent = load_agent(given.logdir)
    data = play(agent, given.episodes, given.seed, given.mode)
    parts = read(agent, data.frames, data.actions, given.seed)
    counts = resamples(given.episodes - given.episodes // 2, given.seed)
    shares = parts.get("responsibilities")
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
    command.add_argument("--seed", type=int, default=500_000, help="of the first held-out episode")
    command.add_argument("--mode", choices=("sample", "deterministic"), default="sample", help="of the actions")
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
