"""The conv trunk shared by tokenizer, posterior and attention, on whose weights the loss groups conflict."""

import copy

import torch
from torch import Generator, Tensor, nn

from world_model.layers import GRID, ToBlocks, stem_scale
from world_model.losses import choose_frames, gram_loss, spread


class ResidualPair(nn.Module):
    """A residual block x + conv3x3(SiLU(GN(conv3x3(SiLU(GN(x)))))), whose last conv starts scaled down."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        last = self.body[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.kaiming_normal_(last.weight)
        last.weight.data.mul_(0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.body(inputs)


class NoFeatures(nn.Module):
    """The layers of a trunk without frames: [N, ·, 0, 0] -> features [N, 0, 8, 8], of which no channel is left."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames.new_zeros(len(frames), 0, GRID, GRID)


class ConvTrunk(nn.Module):
    """A network from frames [N, 3 * frame_stack, 64, 64] (centred at 0) to features F [N, 4 * base_channels, 8, 8].

    stem_stride 2: three convs of stride 2, 64 -> 32 -> 16 -> 8. stem_stride 4: one conv of kernel 8 replaces the first
    two, 64 -> 16 -> 8, which takes little more than half the time on a CPU. stem_stride 8: one conv of kernel 16,
    which is faster still (docs/speed.md); it reads blocks of 4x4 pixels as channels, the same sums in a faster order.
    Frames of another size, a multiple of 32, change the first conv alone, whose stride grows with them. Size 0, no
    frames, has no weights and no features.

    `halfway`: the features at 16x16, `half_channels` wide, on the way to those at 8x8.
    """

    def __init__(
        self,
        base_channels: int = 32,
        residual: bool = True,
        stem_stride: int = 2,
        frame_stack: int = 1,
        image_size: int = 64,
    ) -> None:
        super().__init__()
        if image_size == 0:
            self.layers, self.out_channels, self.half_channels = nn.Sequential(NoFeatures()), 0, 0
            return
        base, scale = base_channels, stem_scale(image_size)
        steps = {
            2: [(base, scale), (2 * base, 2), (4 * base, 2)],
            4: [(2 * base, 2 * scale), (4 * base, 2)],
            8: [(4 * base, 2)],
        }[stem_stride]
        block = 2 * scale
        layers: list[nn.Module] = [ToBlocks(block)] if stem_stride == 8 else []
        in_channels = 3 * frame_stack * (block**2 if stem_stride == 8 else 1)
        for out_channels, stride in steps:
            if out_channels == 4 * base:  # the last one, from 16x16 to 8x8
                self.half_channels, self.half_layers = in_channels, len(layers)
            padding = (stride + 1) // 2
            conv = nn.Conv2d(in_channels, out_channels, stride + 2 * padding, stride, padding)
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [conv, nn.GroupNorm(8, out_channels), nn.SiLU()]
            in_channels = out_channels
        if residual:
            layers.append(ResidualPair(in_channels))
        self.layers = nn.Sequential(*layers)
        self.out_channels = in_channels

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(frames)

    def halfway(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features at 8x8 and those at 16x16 before them, [N, half_channels, 16, 16]."""
        fine = self.layers[: self.half_layers](frames)
        return self.layers[self.half_layers :](fine), fine


class SlowTrunk(nn.Module):
    """The gram teacher: an EMA copy of the trunk, whose cell similarities regularise the trunk on some frames."""

    def __init__(self, trunk: ConvTrunk, fraction: float, decay: float = 0.995) -> None:
        super().__init__()
        self.layers = copy.deepcopy(trunk.layers).requires_grad_(False)
        self.fraction, self.decay = fraction, decay

    def loss(self, features: Tensor, inputs: Tensor, generator: Generator | None = None) -> Tensor:
        """Return `gram_loss` [B, T] on some frames: features [B, T, C, 8, 8] of trunk inputs [B, T, ·, 64, 64]."""
        shape = features.shape[:2]
        chosen = choose_frames(shape, self.fraction, generator, features.device)
        with torch.no_grad():
            target = self.layers(inputs.flatten(0, 1)[chosen])
        return spread(gram_loss(features.flatten(0, 1)[chosen], target), chosen, shape)

    @torch.no_grad()
    def follow(self, trunk: ConvTrunk) -> None:
        """Move the copy towards the trunk by 1 - decay."""
        for slow, fast in zip(self.layers.parameters(), trunk.layers.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.decay)
