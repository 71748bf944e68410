"""The state-conditioned Dirichlet-process Gaussian-mixture prior p(z | carry)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model import ranks
from world_model.generative_prior.component_usage import cluster_entropy, effective_components, usage_metrics
from world_model.generative_prior.mixture_monitors import mixture_monitors
from world_model.generative_prior.mixture_sampling import PriorParams, draw_noise, mixture_mode, sample_mixture
from world_model.generative_prior.stick_breaking import (
    Concentration,
    concentration_posterior,
    expected_stick_log_weights,
    infer_concentration,
)
from world_model.prior import PriorReport

USAGE_DECAY = 0.99
DEAD_USAGE = 1e-3
DEAD_PATIENCE = 1000  # updates


def squash(value: Tensor, limit: float) -> Tensor:
    """Return limit · tanh(value / limit), elementwise: smooth, the identity near 0."""
    return limit * torch.tanh(value / limit)


class DPGMMPrior(nn.Module):
    r"""Truncated stick-breaking Gaussian mixture whose every parameter is a function of the carry g.

    .. math::
        p(z \mid g) = \sum_k w_k\, N(z; \mu_k, \mathrm{diag}\,\sigma_k^2), \qquad w_k = E[\pi_k], \quad
        v_k \sim \mathrm{Kumaraswamy}(a_k(g), b_k(g)), \\
        \mu_k = m_0(t) + M_k + V_k t, \qquad
        \sigma_k = \sigma_{min} + (\sigma_{max} - \sigma_{min})\, \mathrm{sigmoid}(s_0(t) + s_k), \qquad
        t = \mathrm{SiLU}(\mathrm{LayerNorm}(W g))

    The drift m_0 is shared: components are residuals of one path, else the discrete choice becomes redundant. The
    mixture is linear in π, so the sticks integrate out exactly and the same w serve KL, log-prob and dreams; the price
    of the sticks themselves is `infer_concentration`. Weights start at 1/K each. max_components=1 is the Gaussian
    control. (Sethuraman 1994; Nalisnick & Smyth 2017, arXiv 1605.06197.)

    Args: hidden_dim H, latent_dim D, max_components K; trunk_dim, the width of t; unimix u, for w <- (1-u) w + u/K;
    std_range of every σ; prior_shape and prior_rate of the concentration's Gamma. Raises ValueError out of range.

    Example:
        >>> prior = DPGMMPrior(hidden_dim=512, latent_dim=36, max_components=15)
        >>> params = prior(torch.zeros(8, 16, 512))
        >>> prior.sample(params).shape
        torch.Size([8, 16, 36])
    """

    loss_names = ("hierarchical_kl", "cluster_entropy")
    usage: Tensor
    dead_updates: Tensor

    def __init__(
        self,
        hidden_dim: int,
        latent_dim: int,
        max_components: int,
        trunk_dim: int = 256,
        unimix: float = 0.0,
        std_range: tuple[float, float] = (0.1, 2.0),
        prior_shape: float = 1.0,
        prior_rate: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = {"hidden_dim": hidden_dim, "latent_dim": latent_dim, "trunk_dim": trunk_dim}
        rates = {"max_components": max_components, "prior_shape": prior_shape, "prior_rate": prior_rate}
        for name, value in {**sizes, **rates}.items():
            if not value > 0:
                raise ValueError(f"{name}: got {value}, expected a positive number")
        if not 0 <= unimix < 1:
            raise ValueError(f"unimix: got {unimix}, expected a number in [0, 1)")
        if not 0 < std_range[0] < std_range[1]:
            raise ValueError(f"std_range: got {std_range}, expected 0 < low < high")
        self.latent_dim, self.max_components = latent_dim, max_components
        self.unimix, self.std_range = unimix, std_range
        self.prior_shape, self.prior_rate = prior_shape, prior_rate
        sticks = max_components - 1
        # Wide enough that every b_k of the uniform start lies inside, for any K
        self.squash_limit = max(3.0, math.log(sticks) + 0.36) if sticks else 3.0
        self.trunk = nn.Linear(hidden_dim, trunk_dim)
        self.norm = nn.LayerNorm(trunk_dim)
        # One linear holds u_a, u_b, m_0, s_0 and V; the bias of V's slice is M.
        self._splits = [sticks, sticks, latent_dim, latent_dim, max_components * latent_dim]
        self.head = nn.Linear(trunk_dim, sum(self._splits))
        self.std_offsets = nn.Parameter(torch.empty(max_components, latent_dim))  # s_k
        self.register_buffer("usage", torch.full((max_components,), 1 / max_components))
        self.register_buffer("dead_updates", torch.zeros(max_components, dtype=torch.long))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start at weights 1/K, stds near 1 and means spread by ½ around a small drift."""
        self.head.reset_parameters()
        self.head.weight.mul_(0.1)
        nn.init.zeros_(self.head.bias)
        _, bias_b, _, _, component_means = self.head.bias.split(self._splits)
        nn.init.normal_(self.head.weight.split(self._splits)[-1], std=0.01)
        nn.init.normal_(component_means, std=0.5)
        b = torch.arange(self.max_components - 1, 0, -1, dtype=torch.float64)  # a = 1, b_k = K - k: weights 1/K each
        bias_b.copy_(self.squash_limit * torch.atanh(b.log() / self.squash_limit))
        low, high = self.std_range
        start = 1.0 if low < 1 < high else (low + high) / 2
        share = (start - low) / (high - low)
        nn.init.constant_(self.std_offsets, math.log(share / (1 - share)))

    @property
    def component_means(self) -> Tensor:
        """M, a view [K, D] of the parameters."""
        return self.head.bias.split(self._splits)[-1].view(self.max_components, self.latent_dim)

    def _heads(self, carry: Tensor) -> tuple[Tensor, ...]:
        """Return u_a, u_b, m_0, s_0 and M + V t (flat), float32: carry [..., H] -> [..., *splits]."""
        hidden = F.silu(self.norm(self.trunk(carry).float()))  # a norm of mixed precisions has no fused kernel
        return self.head(hidden).float().split(self._splits, dim=-1)

    def forward(self, carry: Tensor) -> PriorParams:
        """Return the mixture of each state: carry [..., H] -> PriorParams, in float32. ValueError on another width."""
        if carry.shape[-1:] != (self.trunk.in_features,):
            raise ValueError(f"carry: got shape {tuple(carry.shape)}, expected [..., {self.trunk.in_features}]")
        u_a, u_b, drift, std_drift, residual = self._heads(carry)
        residual = residual.unflatten(-1, (self.max_components, self.latent_dim))  # [..., K*D] -> [..., K, D]
        log_a, log_b = squash(u_a, self.squash_limit), squash(u_b, self.squash_limit)
        log_weights = expected_stick_log_weights(log_a, log_b)
        if self.unimix > 0 and self.max_components > 1:
            floor = log_weights.new_full((), math.log(self.unimix / self.max_components))
            log_weights = torch.logaddexp(log_weights + math.log1p(-self.unimix), floor)
        low, high = self.std_range
        stds = low + (high - low) * torch.sigmoid(std_drift.unsqueeze(-2) + self.std_offsets)
        return PriorParams(log_a, log_b, log_weights, drift.unsqueeze(-2) + residual, stds)

    draw_noise = staticmethod(draw_noise)
    sample = staticmethod(sample_mixture)
    mode = staticmethod(mixture_mode)
    effective_components = staticmethod(effective_components)
    usage_metrics = staticmethod(usage_metrics)

    @staticmethod
    def log_prob(params: PriorParams, z: Tensor) -> Tensor:
        """Return ln p(z | carry) in nats: z [..., D] -> [...]."""
        return params.log_prob(z)

    def infer_concentration(self, params: PriorParams) -> Concentration:
        """Return the hierarchical KL in nats, and shape and rate of q(α), [...] each, in one quadrature."""
        return infer_concentration(params.log_a, params.log_b, self.prior_shape, self.prior_rate)

    def concentration(self, params: PriorParams) -> tuple[Tensor, Tensor]:
        """Return shape A and rate R of the concentration's posterior q(α) = Gamma(A, R), [...] each."""
        return concentration_posterior(params.log_a, params.log_b, self.prior_shape, self.prior_rate)

    def alpha(self, params: PriorParams) -> Tensor:
        """Return the concentration's posterior mean A/R, [...]."""
        shape, rate = self.concentration(params)
        return shape / rate

    def report(self, params: PriorParams, responsibilities: Tensor | None) -> PriorReport:
        """Return the mixture by its public names, the KL of sticks and concentration, and the entropy of its usage."""
        assert responsibilities is not None
        concentration = self.infer_concentration(params)
        entropy = cluster_entropy(responsibilities)
        parameters = {
            "pi": params.log_weights.exp(),
            "mu_k": params.means,
            "sigma_k": params.stds,
            "log_a": params.log_a,
            "log_b": params.log_b,
            "alpha": concentration.shape / concentration.rate,
        }
        losses = {"hierarchical_kl": concentration.kl, "cluster_entropy": entropy.expand_as(concentration.kl)}
        return PriorReport(parameters, losses, {"effective_components": entropy.exp()})

    def monitors(
        self,
        params: PriorParams,
        mean: Tensor,
        std: Tensor,
        responsibilities: Tensor | None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return `mixture_monitors`."""
        assert responsibilities is not None
        return mixture_monitors(params, mean, std, responsibilities, generator)

    def after_update(
        self,
        mean: Tensor,
        carry: Tensor,
        responsibilities: Tensor | None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Update the components' usage with `update_usage`."""
        assert responsibilities is not None
        self.update_usage(responsibilities, mean, carry, generator)

    @torch.no_grad()
    def update_usage(
        self,
        responsibilities: Tensor,
        posterior_mean: Tensor,
        carry: Tensor,
        generator: torch.Generator | None = None,
    ) -> None:
        """Track each component's usage and move dead ones; call this at the end of an update. No effect in eval mode.

        A component with mean responsibility below 1e-3 (moving average) for 1000 updates gets M_k <- m - m_0(t) of a
        random row. responsibilities [..., K], posterior_mean m [..., D], carry [..., H]; generator on their device. A
        batch whose responsibilities are not finite, so that its step is skipped, changes nothing.
        """
        if not self.training:
            return
        usage = ranks.mean(responsibilities.float().flatten(0, -2).mean(0))  # [..., K] -> [K]
        is_good = torch.isfinite(usage).all()
        self.usage.copy_(torch.where(is_good, self.usage.lerp(usage, 1 - USAGE_DECAY), self.usage))
        self.dead_updates.add_(is_good).mul_(self.usage < DEAD_USAGE)
        dead = (self.dead_updates >= DEAD_PATIENCE) & is_good
        # Rows are drawn for all K at every update: checking whether any is dead would synchronise with the device.
        means, carries = posterior_mean.flatten(0, -2), carry.flatten(0, -2)  # [N, D], [N, H]
        rows = torch.randint(means.shape[0], (self.max_components,), generator=generator, device=means.device)
        drift = self._heads(carries[rows])[2]
        target = ranks.interleave(means[rows] - drift).to(self.component_means.dtype)
        self.component_means.copy_(torch.where(dead.unsqueeze(-1), target, self.component_means))
        # A moved component counts as used again, which also ends its count of dead updates.
        self.usage.copy_(torch.where(dead, 1 / self.max_components, self.usage))
