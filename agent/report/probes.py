"""Linear probes: what a ridge regression reads of the simulator's state in each part of the world model.

It learns from the first half of the episodes and is judged on the others; R² is 1 - error / error of the learned mean,
so that 0 means "says nothing". Intervals are over the judged episodes (95 %, bootstrap). What a linear probe cannot
read may still be there.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

SOURCES = ("frame", "z", "g", "c", "slots", "z g", "z g c", "z g slots")
ADDED = {"c": "z g c", "slots": "z g slots"}  # gains over "z g"
PENALTIES = torch.logspace(-6, 3, 10, dtype=torch.float64)  # of the ridge regressions, per row
RESAMPLES = 2000

Figures = dict[str, Any]


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
