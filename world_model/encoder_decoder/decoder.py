"""Decoder p(x|z,g,A): a Gaussian of fixed variance ½ per pixel, whose mean depends on state and attention maps."""

import torch
from torch import Tensor, nn

from world_model.layers import FromBlocks, stem_scale


class Decoder(nn.Module):
    """A network: features f = [g, z] [N, F], maps A [N, S, 8, 8] (each slot sums to 1) -> frames [N, 3, 64, 64].

    Frames are normalised (`FrameNorm`). Maps enter scaled by 64 (uniform = 1) at the 8x8 stage. There is no skip
    connection from the encoder. The layers mirror the trunk: stem_stride 2 ends in two transposed convs (16 -> 32 ->
    64), 4 in one sub-pixel conv (16 -> 64), and 8 in the transposed conv (8 -> 16) whose channels are those pixels.
    Frames of another size, a multiple of 32, change the last layer alone.
    """

    def __init__(
        self, feature_dim: int, num_slots: int, base_channels: int = 32, stem_stride: int = 2, image_size: int = 64
    ) -> None:
        super().__init__()
        base, scale = base_channels, stem_scale(image_size)
        side, padding = 2 * scale, (scale + 1) // 2
        self.project = nn.Linear(feature_dim, 8 * base * 16)
        self.to_cells = nn.Sequential(
            nn.Unflatten(1, (8 * base, 4, 4)),
            nn.GroupNorm(8, 8 * base),
            nn.SiLU(),
            nn.ConvTranspose2d(8 * base, 4 * base, 4, stride=2, padding=1),  # 4 -> 8
            nn.GroupNorm(8, 4 * base),
            nn.SiLU(),
        )
        block, width = 3 * side**2, 2 * base
        last: list[nn.Module]
        if stem_stride == 2:
            last = [
                nn.ConvTranspose2d(width, base, 4, stride=2, padding=1),  # 16 -> 32
                nn.GroupNorm(8, base),
                nn.SiLU(),
                nn.ConvTranspose2d(base, 3, scale + 2 * padding, scale, padding),  # 32 -> 64
            ]
        elif stem_stride == 4:
            last = [nn.Conv2d(width, block, 3, padding=1), FromBlocks(side)]  # 16 -> 64
        else:
            last, width = [FromBlocks(side)], block
        activation = [] if stem_stride == 8 else [nn.GroupNorm(8, width), nn.SiLU()]
        self.to_pixels = nn.Sequential(
            nn.ConvTranspose2d(4 * base + num_slots, width, 4, stride=2, padding=1),  # 8 -> 16
            *activation,
            *last,
        )

    def forward(self, features: Tensor, maps: Tensor) -> Tensor:
        cells = self.to_cells(self.project(features))  # [N, 4b, 8, 8]
        return self.to_pixels(torch.cat([cells, 64.0 * maps], 1))
