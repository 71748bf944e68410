"""Posterior over the latent (Chung et al. 2015, VRNN): q(z|x,c,g) = N(m, diag s²)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from world_model.config import EncoderConfig
from world_model.distributions import at_least_float32
from world_model.encoder_decoder.vector import VectorEncoder
from world_model.layers import bounded_std

START_STD_LOGIT = -2.0


class Posterior(nn.Module):
    """The posterior network in two parts: the frame's share of the first layer is computed before the recurrence.

    `project`: features F [..., Cf, 8, 8], context [..., C] -> [..., P], in parallel over all frames; with a
    `vector_dim` also of vectors [..., V], or of nothing else where there are no features (Cf = 0).
    `forward`: projected [N, P], carry [N, H] -> mean [N, D], std [N, D] in [min_std, max_std].
    With `uses_carry=False` the carry is ignored: q(z|x,c). Means start at full scale and stds low (0.28): at N(0, 1)
    the latent starts as noise that the decoder learns to ignore, and it stayed empty for twice as long.
    """

    def __init__(
        self,
        feature_channels: int,
        context_dim: int,
        carry_dim: int,
        latent_dim: int,
        config: EncoderConfig,
        vector_dim: int | None = None,
    ) -> None:
        super().__init__()
        embedding_dim, hidden_dim = config.embedding_dim, config.hidden_dim
        if feature_channels == 0:
            self.squeeze, self.embed, embedding_dim = nn.Sequential(), nn.Sequential(), 0
        else:
            squeezed = max(feature_channels // 4, 1)
            self.squeeze = nn.Sequential(nn.Conv2d(feature_channels, squeezed, 1), nn.SiLU())
            self.embed = nn.Sequential(nn.Linear(squeezed * 64, embedding_dim), nn.LayerNorm(embedding_dim), nn.SiLU())
        self.frame_part = nn.Linear(embedding_dim + context_dim, hidden_dim)
        self.carry_part = nn.Linear(carry_dim, hidden_dim, bias=False) if config.uses_carry else None
        self.norm = nn.LayerNorm(hidden_dim)
        self.out = nn.Linear(hidden_dim, 2 * latent_dim)
        nn.init.constant_(self.out.bias.data[latent_dim:], START_STD_LOGIT)
        self.std_range = (config.min_std, config.max_std)
        self.vector_part = None if vector_dim is None else VectorEncoder(vector_dim, hidden_dim)

    def project(self, features: Tensor, context: Tensor, vectors: Tensor | None = None) -> Tensor:
        lead = features.shape[:-3]
        squeezed = self.squeeze(features.flatten(0, -4)).flatten(1)  # [N, Cs * 64]
        embedding = self.embed(squeezed).unflatten(0, lead)
        projected = self.frame_part(torch.cat([embedding, context], -1))
        return projected if self.vector_part is None else projected + self.vector_part(vectors)

    def forward(self, projected: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        if self.carry_part is not None:
            projected = projected + self.carry_part(carry)
        mean, raw_std = at_least_float32(self.out(functional.silu(self.norm(projected)))).chunk(2, -1)
        return mean, bounded_std(raw_std, *self.std_range)
