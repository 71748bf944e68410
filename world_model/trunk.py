"""One conv trunk feeds tokenizer, posterior and attention: the weights on which the loss groups really conflict."""

import copy

import torch
from torch import Generator, Tensor, nn

from world_model.losses import choose_frames, gram_loss, spread


class ResidualPair(nn.Module):
    """x + conv3x3(SiLU(GN(conv3x3(SiLU(GN(x)))))) with the last conv scaled down at the start."""

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


class ConvTrunk(nn.Module):
    """Frames [N, 3, 64, 64] (centred at 0) -> features F [N, 4 * base_channels, 8, 8]; every frame by itself.

    stem_stride 2: three convs of stride 2, 64 -> 32 -> 16 -> 8. stem_stride 4: the first two become one of kernel 8,
    64 -> 16 -> 8, which on a CPU takes little more than half of the time.
    """

    def __init__(self, base_channels: int = 32, residual: bool = True, stem_stride: int = 2) -> None:
        super().__init__()
        base = base_channels
        steps = [(base, 2), (2 * base, 2), (4 * base, 2)] if stem_stride == 2 else [(2 * base, 4), (4 * base, 2)]
        layers: list[nn.Module] = []
        in_channels = 3
        for out_channels, stride in steps:
            conv = nn.Conv2d(in_channels, out_channels, 2 * stride, stride, padding=stride // 2)
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


class SlowTrunk(nn.Module):
    """Gram teacher: an EMA copy of the trunk whose cell similarities the trunk keeps to, on a share of the frames."""

    def __init__(self, trunk: ConvTrunk, fraction: float, decay: float = 0.995) -> None:
        super().__init__()
        self.layers = copy.deepcopy(trunk.layers).requires_grad_(False)
        self.fraction, self.decay = fraction, decay

    def loss(self, features: Tensor, inputs: Tensor, generator: Generator | None = None) -> Tensor:
        """`gram_loss` [B, T] on a share of the frames: features [B, T, C, 8, 8] of trunk inputs [B, T, 3, 64, 64]."""
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
