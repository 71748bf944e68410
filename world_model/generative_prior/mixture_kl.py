"""Bounds and an estimate of KL(N(m, diag s²) || Σ_k w_k N(μ_k, diag σ_k²)).

All take mean, std [..., D], log_weights [..., K] and means, stds [..., K, D], and return nats.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from world_model.distributions import diagonal_gaussian_kl, full_precision, gaussian_log_prob, standard_normal


class MixtureBound(NamedTuple):
    """The upper bound J [...] and the responsibilities r [..., K] it comes with."""

    upper: Tensor
    responsibilities: Tensor


def _check_shapes(mean: Tensor, std: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> None:
    components = (log_weights.shape[-1], mean.shape[-1])
    if std.shape[-1:] != mean.shape[-1:]:
        raise ValueError(f"std: got shape {tuple(std.shape)}, expected mean's {tuple(mean.shape)}")
    for name, tensor in (("means", means), ("stds", stds)):
        if tensor.shape[-2:] != components:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected it to end in {components}")


@full_precision
def mixture_kl_and_responsibilities(
    mean: Tensor, std: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor
) -> MixtureBound:
    """Return J = -logsumexp_k(ln w_k - KL_k) >= KL(q || mixture) >= 0 and r_k = softmax_k(ln w_k - KL_k).

    KL_k is the Gaussian KL to component k. J is zero-variance and never above Σ w_k KL_k or any KL_k - ln w_k; r is the
    best assignment of q to components (Hershey & Olsen 2007).
    """
    _check_shapes(mean, std, log_weights, means, stds)
    component_kl = diagonal_gaussian_kl(mean.unsqueeze(-2), std.unsqueeze(-2), means, stds)  # [..., K, D] -> [..., K]
    scores = log_weights - component_kl
    return MixtureBound(-torch.logsumexp(scores, dim=-1), torch.softmax(scores, dim=-1))


def mixture_kl_upper_bound(mean: Tensor, std: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return the upper bound J of `mixture_kl_and_responsibilities`, [...]: the default training term."""
    return mixture_kl_and_responsibilities(mean, std, log_weights, means, stds).upper


def responsibilities(mean: Tensor, std: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return r_k = softmax_k(ln w_k - KL_k), [..., K], summing to 1."""
    return mixture_kl_and_responsibilities(mean, std, log_weights, means, stds).responsibilities


@full_precision
def mixture_kl_lower_bound(mean: Tensor, std: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return -H(q) - logsumexp_k(ln w_k + ln N(m; μ_k, s² + σ_k²)) <= KL(q || mixture), [...].

    Jensen's inequality on E_q[ln mixture], whose inner integral is Gaussian (Hershey & Olsen 2007). A diagnostic.
    """
    _check_shapes(mean, std, log_weights, means, stds)
    negative_entropy = gaussian_log_prob(mean, mean, std) - 0.5 * mean.shape[-1]
    spread = (std.unsqueeze(-2).square() + stds.square()).sqrt()
    overlap = gaussian_log_prob(mean.unsqueeze(-2), means, spread)  # [..., K, D] -> [..., K]
    return negative_entropy - torch.logsumexp(log_weights + overlap, dim=-1)


@full_precision
def mixture_log_prob(value: Tensor, log_weights: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """Return ln Σ_k w_k N(value; μ_k, σ_k²): value [..., D] -> [...]."""
    return torch.logsumexp(log_weights + gaussian_log_prob(value.unsqueeze(-2), means, stds), dim=-1)


@full_precision
def mixture_kl_monte_carlo(
    mean: Tensor,
    std: Tensor,
    log_weights: Tensor,
    means: Tensor,
    stds: Tensor,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the unbiased estimate mean_z [ln q(z) - ln mixture(z)], z ~ q reparametrised, [...].

    Holds num_samples x [..., K, D] floats at once. Raises ValueError where num_samples < 1.
    """
    _check_shapes(mean, std, log_weights, means, stds)
    if num_samples < 1:
        raise ValueError(f"num_samples: got {num_samples}, expected at least 1")
    noise = standard_normal((num_samples, *mean.shape), mean, generator)
    z = mean + std * noise  # [num_samples, ..., D]
    return (gaussian_log_prob(z, mean, std) - mixture_log_prob(z, log_weights, means, stds)).mean(0)
