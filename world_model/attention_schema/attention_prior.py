"""Top-down attention: where the model expects to look next, from where it looked and from its state."""

import math

import torch
from torch import Tensor, nn

from world_model.attention_schema.slot_attention import GRID, NUM_CELLS

LOG_PRECISION_RANGE = (-4.0, 8.0)


class AttentionPrior(nn.Module):
    """p(A_t | A_{t-1}, g_t, z_t) and the expected movement of each slot's centre, with its precision.

    logits = ln A_{t-1} + conv(SiLU(conv(64 A_{t-1}) + W [g, z] + position)), softmax over the cells of each slot,
    mixed with the uniform distribution. The last convolution starts small: at first attention is expected to stay.
    Movement and log-precision come from the state alone (a spatial mean over a map would be blind to its place).
    """

    def __init__(self, state_dim: int, num_slots: int, channels: int = 32, map_mix: float = 0.01) -> None:
        super().__init__()
        self.num_slots, self.map_mix = num_slots, map_mix
        self.state_norm = nn.LayerNorm(state_dim)
        self.from_state = nn.Linear(state_dim, 2 * channels)  # one matmul: the map's part, the movement's part
        self.from_maps = nn.Conv2d(num_slots, channels, 3, padding=1)
        self.position = nn.Parameter(0.02 * torch.randn(channels, GRID, GRID))
        self.to_logits = nn.Conv2d(channels, num_slots, 3, padding=1, bias=False)  # a shift is lost in softmax
        self.to_movement = nn.Linear(channels, 3 * num_slots)
        with torch.no_grad():
            self.to_logits.weight.mul_(0.1)
            self.to_movement.weight.mul_(0.1)
            low, high = LOG_PRECISION_RANGE
            bias = torch.zeros(num_slots, 3)
            bias[:, 2] = math.log(-low / high)  # precision 1 at the start
            self.to_movement.bias.copy_(bias.flatten())

    def forward(self, previous_maps: Tensor, state: Tensor) -> Tensor:
        """Prior maps [N, S, 8, 8] from the maps before, [N, S, 8, 8], and the state [N, H+D]."""
        return self.maps(previous_maps, self.embed(state)[0])

    def embed(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """The two uses of the state [N, H+D]: for the maps and for the movement, [N, channels] each."""
        for_maps, for_movement = self.from_state(self.state_norm(state)).chunk(2, -1)
        return for_maps, for_movement

    def maps(self, previous_maps: Tensor, for_maps: Tensor) -> Tensor:
        """Prior maps [N, S, 8, 8], float32, from the maps before and `embed`'s first part."""
        hidden = self.from_maps(NUM_CELLS * previous_maps) + for_maps[:, :, None, None] + self.position
        change = self.to_logits(nn.functional.silu(hidden))
        logits = previous_maps.float().log() + change.float()
        expected = logits.flatten(-2).softmax(-1).view_as(logits)
        return (1.0 - self.map_mix) * expected + self.map_mix / NUM_CELLS

    def movement(self, for_movement: Tensor) -> tuple[Tensor, Tensor]:
        """Expected movement [N, S, 2] (x, y; the frame spans [-1, 1]) and log-precision [N, S] in [-4, 8]."""
        raw = self.to_movement(nn.functional.silu(for_movement)).float().unflatten(-1, (self.num_slots, 3))
        low, high = LOG_PRECISION_RANGE
        return raw[..., :2], low + (high - low) * torch.sigmoid(raw[..., 2])
