"""Mutual information: what the most responsible component of the mixture says about rewards, speed and contact."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS, SHUFFLES = 4, 200
INFORMATION = ("entropy of bins", "information", "by chance", "95 % of chance", "excess")  # nats
AHEAD = 15  # rewards that are summed

Figures = dict[str, Any]
Index = NDArray[np.int64]


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
    """Return the components in use, and what the most responsible one says about later rewards, speed and contacts."""
    index, steps = shares.argmax(-1).numpy(), min(AHEAD, rewards.shape[1] // 2)
    to_come = rewards.cpu().double()[:, 1:].unfold(1, steps, 1).sum(-1).numpy()  # [B, L - steps]
    found: Figures = {f"next {steps} rewards": information(index[:, :-steps], to_come, seed)}
    velocities = [values for name, values in simulator.items() if name.startswith("qvel/")]
    if velocities:
        found["speed"] = information(index, torch.stack(velocities).norm(dim=0).numpy(), seed)
    if "contacts" in simulator and simulator["contacts"].std() > 0:
        found["contacts"] = information(index, simulator["contacts"].numpy(), seed)
    used = {
        "in use": float(np.exp(entropy(shares.mean((0, 1)).numpy()))),
        "in use by index": float(np.exp(entropy(np.bincount(index.ravel()) / index.size))),
    }
    return {"components": shares.shape[-1], **used, "information": found}
