"""Densities shared by pillars, heads and critic: Gaussians, symlog and two-hot regression."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

NUM_BINS = 255
LOG_TWO_PI = 1.8378770664093453


def at_least_float32(value: Any) -> Any:
    """Return a half-precision tensor as float32; float64 tensors and everything else pass unchanged."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of tensors so that it runs in float32 or better, with autocast off."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        values = [at_least_float32(value) for value in args]
        named = {name: at_least_float32(value) for name, value in kwargs.items()}
        device = next(value.device.type for value in [*values, *named.values()] if isinstance(value, Tensor))
        # Checking first avoids the cost of the context if autocast is off, and lets meta tensors through.
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return function(*values, **named)
        return function(*values, **named)

    return wrapper


@full_precision
def symlog(x: Tensor) -> Tensor:
    """Return sign(x) ln(1 + |x|), elementwise (Hafner et al. 2023, arXiv 2301.04104)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


@full_precision
def symexp(x: Tensor) -> Tensor:
    """Return sign(x) (exp|x| - 1), elementwise: the inverse of `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def twohot_bins(
    num_bins: int = NUM_BINS,
    low: float = -20.0,
    high: float = 20.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the `num_bins` equally spaced bin centres in symlog space, [num_bins].

    Raises ValueError where num_bins < 2 or low >= high.
    """
    if num_bins < 2:
        raise ValueError(f"num_bins: got {num_bins}, expected at least 2")
    if not low < high:
        raise ValueError(f"low, high: got {low}, {high}, expected low < high")
    return _bin_centre(torch.arange(num_bins, device=device, dtype=dtype), num_bins, low, high)


def _bin_centre(index: Tensor, num_bins: int, low: float, high: float) -> Tensor:
    """Return the symlog-space centre of bin `index`, elementwise: counted from the middle, so symmetric to the bit."""
    return (index - (num_bins - 1) / 2) * (high - low) / (num_bins - 1) + (low + high) / 2


@full_precision
def twohot_log_prob(logits: Tensor, value: Tensor, low: float = -20.0, high: float = 20.0) -> Tensor:
    """Return the log-likelihood Σ_i t_i ln softmax(logits)_i of a real `value` under its two-hot target t.

    The bins lie at e_i = symexp(b_i); t puts (e_{i+1} - value) / (e_{i+1} - e_i) on the bin below the value and the
    rest on the one above, so that Σ t_i e_i = value: at the optimum `twohot_mean` is the mean of the targets, without
    bias. Values beyond the outer bins count as the outer bin. (DreamerV3, arXiv 2301.04104.)

    logits [..., num_bins], value [...] -> [...]. Raises ValueError where the leading shapes differ.
    """
    if logits.shape[:-1] != value.shape:
        raise ValueError(f"value: got shape {tuple(value.shape)}, expected the logits' {tuple(logits.shape[:-1])}")
    num_bins = logits.shape[-1]
    below = ((symlog(value) - low) * (num_bins - 1) / (high - low)).floor().clamp(0, num_bins - 2)
    edge_below, edge_above = (symexp(_bin_centre(below + i, num_bins, low, high)) for i in (0, 1))
    above_share = ((value - edge_below) / (edge_above - edge_below)).clamp(0, 1)
    log_probs = F.log_softmax(logits, dim=-1)
    index = below.nan_to_num(0.0).long().unsqueeze(-1)  # a NaN is kept by the shares
    log_below, log_above = log_probs.gather(-1, index).squeeze(-1), log_probs.gather(-1, index + 1).squeeze(-1)
    return (1 - above_share) * log_below + above_share * log_above


@full_precision
def twohot_mean(logits: Tensor, low: float = -20.0, high: float = 20.0) -> Tensor:
    """Return the mean Σ_i softmax(logits)_i symexp(b_i).

    Bins are added in mirrored pairs, so that symmetric logits (a zero-initialised head) give exactly 0 and not the
    rounding of two sums near 1e9 (DreamerV3). logits [..., num_bins] -> [...].
    """
    num_bins = logits.shape[-1]
    terms = F.softmax(logits, dim=-1) * symexp(twohot_bins(num_bins, low, high, logits.device, logits.dtype))
    half = num_bins // 2
    pairs = terms[..., :half] + terms[..., num_bins - half :].flip(-1)
    total = pairs.sum(-1)
    return total + terms[..., half] if num_bins % 2 else total


def standard_normal(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None, sample: bool = True
) -> Tensor:
    """Return standard normal noise of a shape on the device of `like`; zeros where `sample` is False."""
    if not sample:
        return like.new_zeros(shape)
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


@full_precision
def gaussian_log_prob(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return ln N(value; mean, diag std²), summed over the last axis: [..., D] each (broadcast) -> [...]."""
    return -0.5 * (((value - mean) / std).square() + 2 * std.log() + LOG_TWO_PI).sum(-1)


@full_precision
def diagonal_gaussian_kl(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """Return KL(N(mean, std²) || N(other_mean, other_std²)) in nats, summed over the last axis.

    KL = Σ_d ln(σ_d/s_d) + (s_d² + (m_d - μ_d)²) / (2σ_d²) - ½;  [..., D] each (broadcast) -> [...].
    """
    ratio = std / other_std
    distance = (mean - other_mean) / other_std
    return 0.5 * (ratio.square() + distance.square() - 1 - 2 * ratio.log()).sum(-1)
