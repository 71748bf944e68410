"""The attention schema: posterior maps, their prior, and the losses that tie the two."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from world_model import ranks
from world_model.attention_schema.attention_prior import AttentionExpected, AttentionPrior
from world_model.attention_schema.slot_attention import SlotAttention
from world_model.config import AttentionConfig
from world_model.layers import GRID, check_sizes


class AttentionOutput(NamedTuple):
    maps: Tensor  # [B, T, S, 8, 8], posterior, sums to 1 over the cells
    prior_maps: Tensor  # [B, T, S, 8, 8]
    responsibilities: Tensor  # [B, T, S, 8, 8], sums to 1 over the slots
    mass: Tensor  # [B, T, S], sums to 1 over the slots
    predicted_movement: Tensor  # [B, T, S, 2], expected change of the centre since t-1
    log_precision: Tensor  # [B, T, S], in [-4, 8]
    slot_recon: Tensor  # [B, T], squared error of the features that the slots reconstruct; 1 if they explain nothing
    sequences: Tensor | None = None  # [B], which ones of a larger batch these are; None: all of it


class AttentionSchema(nn.Module):
    """Bottom-up slot attention and its top-down prediction, computed for all frames at once, outside the recurrence.

    Raises ValueError for widths below 1 or a map_mix outside (0, 1).
    """

    def __init__(self, feature_channels: int, carry_dim: int, latent_dim: int, config: AttentionConfig) -> None:
        super().__init__()
        check_sizes(carry_dim=carry_dim, latent_dim=latent_dim)
        num_slots, map_mix = config.num_slots, config.map_mix
        if not 0.0 < map_mix < 1.0:
            raise ValueError(f"map_mix: got {map_mix}, expected a number in (0, 1)")
        self.feature_channels = feature_channels
        self.carry_dim = carry_dim
        self.num_slots = num_slots
        self.use_precision = config.use_precision
        self.posterior = SlotAttention(
            feature_channels, carry_dim, num_slots, config.slot_dim, config.iterations, map_mix
        )
        self.prior = AttentionPrior(carry_dim + latent_dim, num_slots, config.prior_dim, map_mix)

    def forward(self, features: Tensor, carry: Tensor, latent: Tensor) -> AttentionOutput:
        """Attend to each frame of chunks: features [B, T, Cf, 8, 8], carry [B, T, H], latent [B, T, D]."""
        shape = features.shape[:2]
        if features.shape[2:] != (self.feature_channels, GRID, GRID):
            expected = f"[B, T, {self.feature_channels}, {GRID}, {GRID}]"
            raise ValueError(f"features: got shape {tuple(features.shape)}, expected {expected}")
        if carry.shape != (*shape, self.carry_dim):
            raise ValueError(f"carry: got shape {tuple(carry.shape)}, expected {(*shape, self.carry_dim)}")
        attended = self.posterior(features.flatten(0, 1), carry.flatten(0, 1))
        prior = self.expect(carry, latent)
        return AttentionOutput(
            maps=attended.maps.unflatten(0, shape),
            prior_maps=prior.maps,
            responsibilities=attended.responsibilities.unflatten(0, shape),
            mass=attended.mass.unflatten(0, shape),
            predicted_movement=prior.movement,
            log_precision=prior.log_precision,
            slot_recon=attended.recon_error.unflatten(0, shape),
        )

    def expect(self, carry: Tensor, latent: Tensor) -> AttentionExpected:
        """Predict attention from carry [..., H] and latent [..., D], without a frame, so in dreams too."""
        return self.prior(torch.cat([carry, latent], -1))

    def losses(self, output: AttentionOutput, is_first: Tensor) -> dict[str, Tensor]:
        """Return attention_kl, attention_dynamics_loss, attention_diversity and slot_recon, [B, T] each."""
        shape = output.slot_recon.shape
        if is_first.shape != shape or is_first.dtype != torch.bool:
            raise ValueError(f"is_first: got {is_first.dtype} {tuple(is_first.shape)}, expected bool {tuple(shape)}")
        precision = output.log_precision if self.use_precision else None
        return {
            "attention_kl": attention_kl(output.maps, output.prior_maps, output.mass),
            "attention_dynamics_loss": movement_loss(
                output.maps, output.mass, output.predicted_movement, precision, is_first
            ),
            "attention_diversity": diversity(output.maps),
            "slot_recon": output.slot_recon,
        }


def centre_of_mass(maps: Tensor) -> Tensor:
    """Return the centres (x, y) [..., S, 2] of maps [..., S, 8, 8]; cell j is at (2j + 1) / 8 - 1, y points down."""
    place = (2 * torch.arange(GRID, device=maps.device, dtype=maps.dtype) + 1) / GRID - 1
    return torch.stack([(maps.sum(-2) * place).sum(-1), (maps.sum(-1) * place).sum(-1)], -1)


def attention_kl(maps: Tensor, prior_maps: Tensor, mass: Tensor, prior_share: float = 0.8) -> Tensor:
    """Return sum_k sg(mass_k) [0.8 KL(sg A_k | Â_k) + 0.2 KL(A_k | sg Â_k)] in nats, [B, T].

    maps and prior_maps [B, T, S, 8, 8], positive everywhere; mass [B, T, S]. A mix of 1 % bounds it by 8.667.
    """
    to_prior = _kl(maps.detach(), prior_maps)
    to_posterior = _kl(maps, prior_maps.detach())
    return (mass.detach() * (prior_share * to_prior + (1.0 - prior_share) * to_posterior)).sum(-1)


def _kl(maps: Tensor, prior_maps: Tensor) -> Tensor:
    return (maps * (maps.log() - prior_maps.log())).sum((-2, -1))  # [B, T, S]


def movement_loss(
    maps: Tensor, mass: Tensor, predicted_movement: Tensor, log_precision: Tensor | None, is_first: Tensor
) -> Tensor:
    """Return the error of the predicted movement of the slots' centres, weighted by sg(mass), [B, T].

    With d = |predicted - sg(com(A_t) - com(A_{t-1}))|: e^rho d^2 / 2 - rho (nats), or without log_precision the Huber
    loss summed over x and y. maps [B, T, S, 8, 8], mass and log_precision [B, T, S], predicted_movement [B, T, S, 2].
    Steps without a predecessor in their episode are 0, and the others are scaled up, so that the plain mean over [B, T]
    is the mean over valid steps.
    """
    centres = centre_of_mass(maps.detach())  # [B, T, S, 2]
    # Index 0 is compared with itself and masked out below.
    error = predicted_movement - (centres - torch.cat([centres[:, :1], centres[:, :-1]], 1))
    if log_precision is None:
        per_slot = nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none").sum(-1)
    else:
        per_slot = 0.5 * log_precision.exp() * error.square().sum(-1) - log_precision
    is_valid = torch.cat([torch.zeros_like(is_first[:, :1]), ~is_first[:, 1:]], 1)
    scale = is_valid.numel() * ranks.rank_count() / ranks.total(is_valid.sum()).clamp(min=1)
    return (mass.detach() * per_slot).sum(-1) * is_valid * scale


def diversity(maps: Tensor) -> Tensor:
    """Return the mean cosine over pairs of maps [..., S, 8, 8]: [...], 0 if disjoint (or one slot), 1 if identical."""
    num_slots = maps.shape[-3]
    if num_slots == 1:
        return maps.new_zeros(maps.shape[:-3])
    units = nn.functional.normalize(maps.flatten(-2), dim=-1)  # [..., S, 64]
    # |sum_i u_i|^2 = S + sum over ordered pairs of u_i . u_j
    return (units.sum(-2).square().sum(-1) - num_slots) / (num_slots * (num_slots - 1))
