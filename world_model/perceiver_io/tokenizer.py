"""Tokenizer: frame features to discrete tokens, and tokens back to pixels, one linear patch per token."""

import torch
from torch import Tensor, nn

from world_model.layers import GRID, check_sizes
from world_model.perceiver_io.quantizer import VectorQuantizer

NUM_CELLS = GRID * GRID


class Tokenizer(nn.Module):
    """One token per cell of the 8 x 8 feature grid: vectors = RMSNorm(linear(features)), then quantised.

    The linear map over each cell is a 1 x 1 convolution. The norm has no gain: with one, the encoder could make
    commitment cheap by shrinking all vectors.
    """

    def __init__(
        self, feature_channels: int, codebook_size: int = 256, code_dim: int = 64, image_size: int = 64
    ) -> None:
        super().__init__()
        check_sizes(feature_channels=feature_channels)
        self.code_dim, self.patch_size = code_dim, image_size // GRID
        self.quantizer = VectorQuantizer(codebook_size, code_dim)
        self.project = nn.Linear(feature_channels, code_dim)
        self.patch = nn.Linear(code_dim, 3 * self.patch_size**2)

    def encode(self, features: Tensor) -> Tensor:
        """Turn features [N, Cf, 8, 8] into vectors [N, 64, code_dim] of mean square 1, float32."""
        cells = features.flatten(-2).transpose(-1, -2)  # [N, 64, Cf]
        vectors = self.project(cells)
        with torch.autocast(vectors.device.type, enabled=False):
            return nn.functional.rms_norm(vectors.float(), (self.code_dim,))

    def decode(self, values: Tensor) -> Tensor:
        """Turn quantised values [N, 64, code_dim] into frames [N, 3, 64, 64], pixel range about [0, 1]."""
        side = self.patch_size
        patches = self.patch(values).view(-1, GRID, GRID, 3, side, side)
        # [N, cell row, cell column, channel, row, column] -> [N, channel, cell row, row, cell column, column]
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, GRID * side, GRID * side)
