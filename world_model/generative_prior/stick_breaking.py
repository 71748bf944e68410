"""Stick-breaking weights and the collapsed KL of sticks and concentration."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from world_model.distributions import full_precision
from world_model.generative_prior.kumaraswamy import (
    Kumaraswamy,
    expected_neg_log1m,
    log1mexp,
    log_moment,
    negative_entropy,
)

EXPECTED_STICK_MIN = 1e-6


def stick_breaking_weights(v: Tensor) -> Tensor:
    """Return π_k = v_k Π_{j<k} (1-v_j), π_K = Π_{j<K} (1-v_j): v [..., K-1] in [0,1] -> [..., K], summing to 1."""
    rest = torch.cumprod(1 - v, dim=-1)
    return F.pad(v, (0, 1), value=1.0) * F.pad(rest, (1, 0), value=1.0)  # [..., K-1] -> [..., K]


@full_precision
def stick_breaking_log_weights(log_v: Tensor, log1m_v: Tensor) -> Tensor:
    """Return ln π_k = ln v_k + Σ_{j<k} ln(1-v_j) from (ln v, ln(1-v)): [..., K-1] each -> [..., K]."""
    return F.pad(log_v, (0, 1)) + F.pad(torch.cumsum(log1m_v, dim=-1), (1, 0))  # [..., K-1] -> [..., K]


def sample_stick_log_weights(log_a: Tensor, log_b: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return one reparametrised draw of ln π with v_k ~ Kumaraswamy(a_k, b_k): [..., K-1] each -> [..., K]."""
    return stick_breaking_log_weights(*Kumaraswamy(log_a, log_b, validate_args=False).log_rsample((), generator))


@full_precision
def expected_stick_log_weights(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return ln E[π_k] with independent v_k ~ Kumaraswamy(a_k, b_k): [..., K-1] each -> [..., K].

    Sticks are independent, so E[π] is the stick-breaking of E[v], which is held inside [1e-6, 1 - 1e-6].
    """
    log_v = log_moment(log_a, log_b).clamp(math.log(EXPECTED_STICK_MIN), math.log1p(-EXPECTED_STICK_MIN))
    return stick_breaking_log_weights(log_v, log1mexp(-log_v))


def expected_stick_weights(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return E[π_k] with independent v_k ~ Kumaraswamy(a_k, b_k): [..., K-1] each -> [..., K], summing to 1."""
    return expected_stick_log_weights(log_a, log_b).exp()


class Concentration(NamedTuple):
    """The hierarchical KL and the concentration's posterior q(α) = Gamma(shape, rate), each [...]."""

    kl: Tensor
    shape: Tensor
    rate: Tensor


@full_precision
def infer_concentration(
    log_a: Tensor, log_b: Tensor, prior_shape: float = 1.0, prior_rate: float = 1.0
) -> Concentration:
    """Return the collapsed KL of sticks and concentration together with the optimal q(α): [..., K-1] each -> [...].

    v_k | α ~ Beta(1, α), α ~ Gamma(a0, b0). The best mean-field q(α) is conjugate, Gamma(A, R) with A = a0 + K - 1 and
    R = b0 + Σ S_k, S = -E[ln(1-v)]; put back into Σ E_q(α) KL(q(v_k) || Beta(1,α)) + KL(q(α) || p(α)) it leaves

        KL = Σ_k {E[ln q(v_k)] - S_k} - [a0 ln b0 - lnΓ(a0) + lnΓ(A) - A ln R]      (nats; 0 for K = 1).

    Raises ValueError where prior_shape or prior_rate is not positive. (Blei & Jordan 2006 for the conjugate update.)
    """
    for name, value in (("prior_shape", prior_shape), ("prior_rate", prior_rate)):
        if not value > 0:
            raise ValueError(f"{name}: got {value}, expected a positive number")
    sticks = log_a.shape[-1]
    shape = prior_shape + sticks
    neg_log1m = expected_neg_log1m(log_a, log_b, num_nodes=16).sum(-1)  # [..., K-1] -> [...]
    constant = math.lgamma(prior_shape) - math.lgamma(shape) + sticks * math.log(prior_rate)
    # A ln R - a0 ln b0 = A ln(1 + ΣS/b0) + (K-1) ln b0, which is 0 exactly where there are no sticks
    marginal = constant + shape * torch.log1p(neg_log1m / prior_rate)
    kl = negative_entropy(log_a, log_b).sum(-1) - neg_log1m + marginal
    return Concentration(kl, torch.full_like(kl, shape), prior_rate + neg_log1m)


def concentration_kl(log_a: Tensor, log_b: Tensor, prior_shape: float = 1.0, prior_rate: float = 1.0) -> Tensor:
    """Return the hierarchical KL in nats with the concentration integrated out: [..., K-1] each -> [...]."""
    return infer_concentration(log_a, log_b, prior_shape, prior_rate).kl


def concentration_posterior(
    log_a: Tensor, log_b: Tensor, prior_shape: float = 1.0, prior_rate: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return shape A and rate R of the optimal q(α) = Gamma(A, R): [..., K-1] each -> [...] each."""
    _, shape, rate = infer_concentration(log_a, log_b, prior_shape, prior_rate)
    return shape, rate
