"""Usage of mixture components: counts from weights, and statistics of the responsibilities."""

import torch
from torch import Tensor

from world_model import ranks

COVERAGE = 0.999


def _entropy(weights: Tensor) -> Tensor:
    """Return -Σ w ln w in nats over the last axis, 0 ln 0 = 0: [..., K] -> [...]."""
    return -torch.xlogy(weights, weights).sum(-1)


def effective_components(weights: Tensor) -> dict[str, Tensor]:
    """Return three counts of used components, each [...] in [1, K], of weights [..., K] that sum to 1.

    entropy: exp H(w);  inverse_simpson: 1/Σw²;  coverage: number of the heaviest that hold 99.9 % of the mass.
    """
    weights = weights.float()
    held = weights.sort(dim=-1, descending=True).values.cumsum(-1)
    return {
        "entropy": _entropy(weights).exp(),
        "inverse_simpson": 1 / weights.square().sum(-1),
        "coverage": (held < COVERAGE).sum(-1).clamp(max=weights.shape[-1] - 1) + 1.0,
    }


def cluster_entropy(responsibilities: Tensor) -> Tensor:
    """Return the entropy of the mean responsibilities [B, T, K] -> [], the evenness of usage by data, in [0, ln K]."""
    usage = ranks.mean(responsibilities.flatten(0, -2).mean(0)).clamp_min(
        1e-8
    )  # an unused component's gradient stays finite
    return -(usage * usage.log()).sum()


def usage_metrics(responsibilities: Tensor) -> dict[str, Tensor]:
    """Return scalar metrics of responsibilities [..., K]: the three counts of their mean over all leading axes
    (`usage_entropy`, `usage_inverse_simpson`, `usage_coverage`), `conditional_entropy` = mean H(r) and
    `mutual_information` = H(mean r) - mean H(r) >= 0, in nats.

    Mutual information near 0 with many used components means that they are interchangeable.
    """
    rows = responsibilities.float().flatten(0, -2)  # [..., K] -> [N, K]
    mean = rows.mean(0)
    conditional = _entropy(rows).mean()
    counts = {f"usage_{name}": count for name, count in effective_components(mean).items()}
    return {**counts, "conditional_entropy": conditional, "mutual_information": _entropy(mean) - conditional}
