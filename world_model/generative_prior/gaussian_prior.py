"""The Gaussian control of the mixture: one component with an exact KL and no sticks."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_model.distributions import diagonal_gaussian_kl, gaussian_log_prob
from world_model.layers import bounded_std, check_sizes
from world_model.prior import Noise, PlainPrior, PriorReport


class GaussianParams(NamedTuple):
    """N(mean, diag std²) per state: mean and std [..., D]."""

    mean: Tensor
    std: Tensor

    def kl(self, mean: Tensor, std: Tensor) -> tuple[Tensor, None]:
        """Return KL(N(mean, diag std²) ‖ this), [...], and None for the responsibilities."""
        return diagonal_gaussian_kl(mean, std, self.mean, self.std), None

    def sample(self, noise: Noise, spread: float = 1.0) -> Tensor:
        """Return z = μ + spread σ ε, [..., D]."""
        (normal,) = noise
        return self.mean + spread * self.std * normal

    def log_prob(self, z: Tensor) -> Tensor:
        """Return ln N(z; μ, σ²): [..., D] -> [...]."""
        return gaussian_log_prob(z, self.mean, self.std)

    def detach(self) -> "GaussianParams":
        """Return the same distribution without gradient."""
        return GaussianParams(self.mean.detach(), self.std.detach())


class GaussianPrior(PlainPrior):
    """p(z|g) = N(μ(g), diag σ(g)²), both linear in t = SiLU(LayerNorm(W g)); σ in std_range and near 1 at the start.

    Raises ValueError for sizes below 1 and for a carry of another width.
    """

    def __init__(
        self, hidden_dim: int, latent_dim: int, trunk_dim: int = 256, std_range: tuple[float, float] = (0.1, 2.0)
    ) -> None:
        super().__init__()
        check_sizes(hidden_dim=hidden_dim, latent_dim=latent_dim, trunk_dim=trunk_dim)
        self.std_range = std_range
        self.trunk = nn.Linear(hidden_dim, trunk_dim)
        self.norm = nn.LayerNorm(trunk_dim)
        self.head = nn.Linear(trunk_dim, 2 * latent_dim)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            nn.init.zeros_(self.head.bias)

    def forward(self, carry: Tensor) -> GaussianParams:
        """Return the Gaussian of each state: carry [..., H] -> mean and std [..., D], in float32."""
        if carry.shape[-1:] != (self.trunk.in_features,):
            raise ValueError(f"carry: got shape {tuple(carry.shape)}, expected [..., {self.trunk.in_features}]")
        hidden = functional.silu(self.norm(self.trunk(carry).float()))
        mean, raw_std = self.head(hidden).float().chunk(2, -1)
        return GaussianParams(mean, bounded_std(raw_std, *self.std_range))

    def report(self, params: GaussianParams, responsibilities: Tensor | None) -> PriorReport:
        """Return its parameters by their public names."""
        return PriorReport({"prior_mean": params.mean, "prior_std": params.std}, {}, {})
