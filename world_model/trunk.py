"""One conv trunk feeds tokenizer, posterior and attention: the weights on which the loss groups really conflict."""

from torch import Tensor, nn


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
    """Frames [N, 3, 64, 64] (centred at 0) -> features F [N, 4 * base_channels, 8, 8]; every frame by itself."""

    def __init__(self, base_channels: int = 32, residual: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels = 3
        for factor in (1, 2, 4):
            out_channels = factor * base_channels
            conv = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1)
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            layers += [conv, nn.GroupNorm(8, out_channels), nn.SiLU()]  # 64 -> 32 -> 16 -> 8
            in_channels = out_channels
        if residual:
            layers.append(ResidualPair(in_channels))
        self.layers = nn.Sequential(*layers)
        self.out_channels = in_channels

    def forward(self, frames: Tensor) -> Tensor:
        return self.layers(frames)
