"""Bottom-up attention: slots compete for the cells of a frame."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from world_model.layers import GRID, check_sizes

NUM_CELLS = GRID * GRID


class SlotOutput(NamedTuple):
    slots: Tensor  # [N, S, slot_dim]
    maps: Tensor  # [N, S, 8, 8], each slot's distribution over the cells (sums to 1 over cells)
    responsibilities: Tensor  # [N, S, 8, 8], each cell's distribution over the slots (sums to 1 over slots)
    mass: Tensor  # [N, S], share of the frame that a slot won (sums to 1 over slots)
    recon_error: Tensor  # [N], squared error of the features that the slots reconstruct, per entry


class SlotAttention(nn.Module):
    """Slot attention (arXiv 2006.15055) whose slots start from learned queries and the carry, so they keep identity.

    rho_mn = softmax over slots m of q(LN(s_m)) . k_n / sqrt d,   w_mn = (rho_mn + eps) / sum_n (rho_mn + eps),
    s_m <- GRU(sum_n w_mn v_n, s_m),   s_m <- s_m + MLP(LN(s_m)), for a few iterations;
    maps = (1 - mix) w + mix / 64,   mass_m = mean_n rho_mn.

    Slots have to reconstruct their cells: recon_error = mean_n |sum_m rho_mn (W s_m) - sg(LN(F_n))|^2 / Cf, 1 if they
    explain nothing (DINOSAUR, arXiv 2209.14860). Without it no loss makes a slot follow a moving object.
    """

    def __init__(
        self,
        feature_channels: int,
        carry_dim: int,
        num_slots: int = 5,
        slot_dim: int = 64,
        iterations: int = 3,
        map_mix: float = 0.01,
    ) -> None:
        super().__init__()
        check_sizes(feature_channels=feature_channels, num_slots=num_slots, slot_dim=slot_dim, iterations=iterations)
        self.iterations, self.map_mix = iterations, map_mix
        self.embed = nn.Linear(feature_channels, slot_dim)
        self.position = nn.Parameter(0.02 * torch.randn(NUM_CELLS, slot_dim))
        self.input_norm = nn.LayerNorm(slot_dim)
        self.to_key_value = nn.Linear(slot_dim, 2 * slot_dim, bias=False)
        self.queries = nn.Parameter(torch.randn(num_slots, slot_dim))
        self.top_down = nn.Linear(carry_dim, slot_dim, bias=False)
        self.to_query = nn.Sequential(nn.LayerNorm(slot_dim, bias=False), nn.Linear(slot_dim, slot_dim, bias=False))
        self.to_features = nn.Linear(slot_dim, feature_channels)
        self.gru = nn.GRUCell(slot_dim, slot_dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(slot_dim), nn.Linear(slot_dim, 2 * slot_dim), nn.SiLU(), nn.Linear(2 * slot_dim, slot_dim)
        )

    def forward(self, features: Tensor, carry: Tensor) -> SlotOutput:
        """Attend to features [N, Cf, 8, 8] with slots that start from the carry [N, H]."""
        cells = self.embed(features.flatten(-2).transpose(-1, -2)) + self.position  # [N, 64, d]
        slots = self.queries + self.top_down(carry).unsqueeze(1)  # [N, S, d]
        slots, shares, weights = self.compete(self.input_norm(cells), slots)
        maps = (1.0 - self.map_mix) * weights + self.map_mix / NUM_CELLS
        error = self._recon_error(features, shares, slots)
        grid = (GRID, GRID)
        return SlotOutput(slots, maps.unflatten(-1, grid), shares.unflatten(-1, grid), shares.mean(-1), error)

    def _recon_error(self, features: Tensor, shares: Tensor, slots: Tensor) -> Tensor:
        """Return the reconstruction error [N], float32: features [N, Cf, 8, 8], rho [N, S, 64], slots [N, S, d]."""
        cells = features.detach().flatten(-2).mT.float()  # [N, 64, Cf]
        target = nn.functional.layer_norm(cells, cells.shape[-1:])
        return (shares.mT @ self.to_features(slots).float() - target).square().mean((-2, -1))

    def compete(self, cells: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Let slots [N, S, d] compete for cells [N, M, d]; return the new slots, rho and w [N, S, M], float32."""
        dim = slots.shape[-1]
        keys, values = self.to_key_value(cells).chunk(2, -1)  # [N, M, d] each
        keys = (keys / math.sqrt(dim)).transpose(-1, -2)
        shares = weights = slots.new_zeros(())
        for _ in range(self.iterations):
            shares = (self.to_query(slots) @ keys).float().softmax(-2)  # [N, S, M], sums to 1 over slots
            weights = shares + 1e-8
            weights = weights / weights.sum(-1, keepdim=True)
            updates = (weights.to(values.dtype) @ values).flatten(0, 1)  # [N*S, d]
            slots = self.gru(updates, slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(slots)
        return slots, shares, weights
