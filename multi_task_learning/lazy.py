"""Lazy RGB: between two solves, one backward pass of Σ C_i L_i with the last coefficients C and consensus d."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from multi_task_learning import rotation
from multi_task_learning.rgb_aggregator import Balanced
from multi_task_learning.task_gradients import plain_runs

MIN_WEIGHT = 1e-20  # a weight of exactly 0 would erase the gradients of parameters that only its task reaches


class Frozen(NamedTuple):
    """The values that lazy steps reuse."""

    weights: Tensor  # [n], on the losses
    consensus_weight: Tensor  # scalar, on d
    owners: list[int]  # one per parameter, see task_gradients


def freeze(balanced: Balanced, owners: list[int], previous: Frozen | None) -> Frozen:
    """Return the coefficients of a solve; those of the `previous` one, or the plain sum, if this one is not finite."""
    is_active = balanced.norms >= rotation.MIN_NORM
    weights = torch.where(is_active, balanced.weights.clamp_min(MIN_WEIGHT), torch.ones_like(balanced.weights))
    if previous is not None and len(previous.weights) == len(weights):
        old_weights, old_consensus = previous.weights.to(weights), previous.consensus_weight.to(weights)
    else:
        old_weights, old_consensus = torch.ones_like(weights), torch.zeros_like(balanced.consensus_weight)
    return Frozen(
        torch.where(balanced.is_finite, weights, old_weights),
        torch.where(balanced.is_finite, balanced.consensus_weight, old_consensus),
        owners,
    )


def complete(vector: Tensor, consensus: Tensor, frozen: Frozen, params: Sequence[Tensor]) -> Tensor:
    """Complete the gradient [P] of Σ C_i L_i: add w_d d on shared entries, divide by C_i where only task i reaches.

    `vector` is overwritten: another one of that size costs more than the arithmetic. d is 0 where one task reaches.
    """
    vector.addcmul_(consensus.to(vector), frozen.consensus_weight.to(vector))
    weights = frozen.weights.to(vector)
    for owner, start, stop in plain_runs(frozen.owners, params):
        if owner >= 0:
            vector[start:stop].div_(weights[owner])
    return vector
