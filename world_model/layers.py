"""Layers that several pillars share."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm in its weight's precision: under autocast a half-precision input would miss the fused kernel."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.to(self.weight.dtype))


def mlp(in_dim: int, hidden_dim: int, num_layers: int) -> nn.Sequential:
    """`num_layers` times Linear -> RMSNorm -> SiLU: [..., in_dim] -> [..., hidden_dim]."""
    blocks: list[nn.Module] = []
    for layer in range(num_layers):
        blocks += [nn.Linear(in_dim if layer == 0 else hidden_dim, hidden_dim), RMSNorm(hidden_dim), nn.SiLU()]
    return nn.Sequential(*blocks)


def head(in_dim: int, hidden_dim: int, num_layers: int, out_dim: int, zero_init: bool = False) -> nn.Sequential:
    """RMSNorm -> MLP -> Linear: [..., in_dim] -> [..., out_dim]; `zero_init` makes the first outputs exactly 0."""
    last = nn.Linear(hidden_dim, out_dim)
    if zero_init:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(RMSNorm(in_dim), *mlp(in_dim, hidden_dim, num_layers), last)


def bounded_std(raw: Tensor, low: float, high: float) -> Tensor:
    """Squash to the standard-deviation range: low + (high - low) * sigmoid(raw)."""
    return low + (high - low) * torch.sigmoid(raw)
