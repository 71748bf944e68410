"""Layers shared by several pillars.

LayerNorm replaces Dreamer's RMSNorm: on a CPU it is one fused kernel, a seventh of RMSNorm's time at [1920, 224].
"""

import torch
from torch import Tensor, nn

GRID = 8  # cells per side of a frame's features, maps and tokens, whatever the frame's size


def check_sizes(**sizes: int) -> None:
    """Raise ValueError, naming the first of `sizes` that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}: got {size}, expected at least 1")


def mlp(in_dim: int, hidden_dim: int, num_layers: int) -> nn.Sequential:
    """Return `num_layers` times Linear -> LayerNorm -> SiLU: [..., in_dim] -> [..., hidden_dim]."""
    blocks: list[nn.Module] = []
    for layer in range(num_layers):
        blocks += [nn.Linear(in_dim if layer == 0 else hidden_dim, hidden_dim), nn.LayerNorm(hidden_dim), nn.SiLU()]
    return nn.Sequential(*blocks)


def head(in_dim: int, hidden_dim: int, num_layers: int, out_dim: int, zero_init: bool = False) -> nn.Sequential:
    """Return LayerNorm -> MLP -> Linear: [..., in_dim] -> [..., out_dim]; `zero_init`: the first outputs are 0."""
    last = nn.Linear(hidden_dim, out_dim)
    if zero_init:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(in_dim), *mlp(in_dim, hidden_dim, num_layers), last)


def bounded_std(raw: Tensor, low: float, high: float) -> Tensor:
    """Return low + (high - low) * sigmoid(raw), a standard deviation between `low` and `high`."""
    return low + (high - low) * torch.sigmoid(raw)


def stem_scale(image_size: int) -> int:
    """Return a 32nd of a frame's side: 2 pixels at 64.

    A trunk's first convolution takes up the size and a decoder's last one gives it back, so that what lies between has
    the same shapes at every size.
    """
    return image_size // 32


class ToBlocks(nn.Module):
    """Read blocks of b x b pixels as channels: [N, C, b h, b w] -> [N, C b b, h, w], like nn.PixelUnshuffle.

    On a CPU it takes 40 % of that module's time.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, frames: Tensor) -> Tensor:
        side, (batch, channels, height, width) = self.side, frames.shape
        blocks = frames.reshape(batch, channels, height // side, side, width // side, side)
        blocks = blocks.permute(0, 1, 3, 5, 2, 4)  # N, C, row and column in the block, row and column of the block
        return blocks.reshape(batch, channels * side * side, height // side, width // side)


class FromBlocks(nn.Module):
    """The inverse of `ToBlocks`: [N, C b b, h, w] -> [N, C, b h, b w], like nn.PixelShuffle."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, blocks: Tensor) -> Tensor:
        side, (batch, channels, height, width) = self.side, blocks.shape
        frames = blocks.reshape(batch, channels // side**2, side, side, height, width).permute(0, 1, 4, 2, 5, 3)
        return frames.reshape(batch, channels // side**2, height * side, width * side)
