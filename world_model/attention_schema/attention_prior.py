"""Top-down attention: the attention that the model expects from its state alone."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from world_model.attention_schema.slot_attention import NUM_CELLS
from world_model.layers import GRID, check_sizes, head

LOG_PRECISION_RANGE = (-4.0, 8.0)


class AttentionExpected(NamedTuple):
    maps: Tensor  # [..., S, 8, 8], float32, sums to 1 over the cells
    movement: Tensor  # [..., S, 2], movement of the slots' centres since t-1 (x, y; the frame spans [-1, 1])
    log_precision: Tensor  # [..., S] of the movement, in [-4, 8]


class AttentionPrior(nn.Module):
    """The prior p(A_t | g_t, z_t) with the expected movement of each slot's centre and its precision: state [..., F].

    maps = (1 - mix) softmax over cells + mix / 64. The previous map is not an input: with it the state need not encode
    positions, and a dream has no previous posterior map (docs/findings.md). Raises ValueError for sizes below 1.
    """

    def __init__(self, state_dim: int, num_slots: int, hidden_dim: int = 256, map_mix: float = 0.01) -> None:
        super().__init__()
        check_sizes(state_dim=state_dim, num_slots=num_slots, prior_dim=hidden_dim)
        self.num_slots, self.map_mix = num_slots, map_mix
        self.net = head(state_dim, hidden_dim, 1, num_slots * (NUM_CELLS + 3))
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
            low, high = LOG_PRECISION_RANGE
            last.bias.view(num_slots, -1)[:, -1] = math.log(-low / high)  # precision 1 at the start

    def forward(self, state: Tensor) -> AttentionExpected:
        """Predict maps, movement and log-precision from states [..., F]."""
        raw = self.net(state).float().unflatten(-1, (self.num_slots, NUM_CELLS + 3))
        logits, movement, raw_precision = raw.split([NUM_CELLS, 2, 1], -1)
        maps = (1.0 - self.map_mix) * logits.softmax(-1) + self.map_mix / NUM_CELLS
        low, high = LOG_PRECISION_RANGE
        log_precision = low + (high - low) * torch.sigmoid(raw_precision.squeeze(-1))
        return AttentionExpected(maps.unflatten(-1, (GRID, GRID)), movement, log_precision)
