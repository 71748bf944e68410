"""Vector quantisation with an exponential-moving-average codebook and revival of dead codes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from world_model import ranks
from world_model.layers import check_sizes

NOISE_OF_REVIVED_CODES = 1e-3


class Quantized(NamedTuple):
    values: Tensor  # [..., code_dim], the code in the forward pass, the identity in the backward pass
    indices: Tensor  # int64 [...]
    commitment: Tensor  # [...], squared distance to the code; its gradient reaches the encoder only


class VectorQuantizer(nn.Module):
    """The map from each vector to its nearest code, with codes that follow the vectors (VQ-VAE, arXiv 1711.00937).

    id = argmin_i |e - E_i|^2,   q = e + sg(E_id - e),   commitment = |e - sg(E_id)|^2.

    After a training forward `update` moves the codes, with n_i, s_i the count and sum of the vectors of code i:
    N <- decay N + (1 - decay) n,   M <- decay M + (1 - decay) s,   E_i = M_i / N~_i,
    N~_i = (N_i + eps) / (sum N + K eps) * sum N.
    A code whose share of N stays below `dead_share` / K for `patience` updates is replaced by a recent vector.
    Nothing changes in eval mode, or by a batch with a non-finite vector, whose step is skipped. Generators must be on
    the codebook's device.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    idle_updates: Tensor
    is_initialised: Tensor

    def __init__(
        self,
        codebook_size: int = 256,
        code_dim: int = 64,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        dead_share: float = 0.03,
        patience: int = 100,
        max_revived_share: float = 0.05,
    ) -> None:
        super().__init__()
        check_sizes(codebook_size=codebook_size, code_dim=code_dim)
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay: got {decay}, expected a number in [0, 1)")
        if not 0.0 <= max_revived_share <= 1.0:
            raise ValueError(f"max_revived_share: got {max_revived_share}, expected a number in [0, 1]")
        self.codebook_size, self.code_dim = codebook_size, code_dim
        self.decay, self.epsilon = decay, epsilon
        self.dead_share, self.patience = dead_share, patience
        self.max_revived = max(1, int(max_revived_share * codebook_size))
        codes = nn.functional.rms_norm(torch.randn(codebook_size, code_dim), (code_dim,))
        self.register_buffer("codebook", codes)
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", codes.clone())
        self.register_buffer("idle_updates", torch.zeros(codebook_size, dtype=torch.int64))
        self.register_buffer("is_initialised", torch.zeros((), dtype=torch.bool))

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantise vectors [..., code_dim] (ValueError otherwise); the lowest index wins a tie. No state changes."""
        if vectors.shape[-1:] != (self.code_dim,):
            raise ValueError(f"vectors: got shape {tuple(vectors.shape)}, expected [..., {self.code_dim}]")
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            indices = self._nearest(vectors.detach())
            codes = self.codebook.detach()[indices]  # [..., code_dim]
            offset = vectors - codes
            # The value is the code itself, bit for bit (e + (E - e) would round), and d value / d vectors = 1.
            values = codes + (vectors - vectors.detach())
            return Quantized(values, indices, offset.square().sum(-1))

    def _nearest(self, vectors: Tensor) -> Tensor:
        # |e|^2 is left out of |e - E|^2: it is the same for every code
        scores = torch.addmm(
            self.codebook.square().sum(-1), vectors.reshape(-1, self.code_dim), self.codebook.T, alpha=-2.0
        )
        return scores.argmin(-1).view(vectors.shape[:-1])

    @torch.no_grad()
    def initialise(self, vectors: Tensor, generator: torch.Generator | None = None) -> None:
        """Replace the random codes by vectors [..., code_dim], at the first call in train mode only.

        One vector is drawn from each of K equal stretches, so that the picks differ wherever there are K vectors.
        """
        if not self.training:
            return
        flat = vectors.detach().float().reshape(-1, self.code_dim)
        size, device = self.codebook_size, flat.device
        stretch = torch.arange(size, device=device) + torch.rand(size, generator=generator, device=device)
        picks = flat[(stretch * (len(flat) / size)).long().clamp_(max=len(flat) - 1)]  # [K, code_dim]
        picks = ranks.interleave(picks)
        # A flag on the device and `where` instead of an `if`, to avoid a synchronisation.
        is_good = torch.isfinite(picks).all()
        is_taken = is_good & ~self.is_initialised
        self.codebook.copy_(torch.where(is_taken, picks, self.codebook))
        self.sums.copy_(torch.where(is_taken, picks, self.sums))
        self.counts.copy_(torch.where(is_taken, torch.ones_like(self.counts), self.counts))
        self.is_initialised.logical_or_(is_good)

    @torch.no_grad()
    def update(self, vectors: Tensor, indices: Tensor, generator: torch.Generator | None = None) -> None:
        """Move the codes after a training forward: vectors [..., code_dim], indices [...]; no effect in eval mode."""
        if not self.training:
            return
        with torch.autocast(vectors.device.type, enabled=False):
            flat = vectors.detach().float().reshape(-1, self.code_dim)
            flat_indices = indices.reshape(-1)
            state = (self.codebook, self.counts, self.sums, self.idle_updates)
            before = [buffer.clone() for buffer in state]
            sums = ranks.total(torch.zeros_like(self.sums).index_add_(0, flat_indices, flat))
            self.counts.lerp_(ranks.total(self._count(flat_indices)), 1.0 - self.decay)
            self.sums.lerp_(sums, 1.0 - self.decay)
            total = self.counts.sum()
            smoothed = (self.counts + self.epsilon) / (total + self.codebook_size * self.epsilon) * total
            self.codebook.copy_(self.sums / smoothed.unsqueeze(-1))
            self._revive(flat, generator)
            is_good = torch.isfinite(sums).all()  # covers every vector
            for buffer, old in zip(state, before, strict=True):
                buffer.copy_(torch.where(is_good, buffer, old))

    def _revive(self, flat: Tensor, generator: torch.Generator | None) -> None:
        """Replace the longest dead codes by random rows of flat [M, code_dim], with the mean count."""
        is_idle = self.counts < self.dead_share * self.counts.mean()
        self.idle_updates.copy_(torch.where(is_idle, self.idle_updates + 1, 0))
        idle, codes = self.idle_updates.topk(self.max_revived)  # [R] each
        is_dead = idle >= self.patience
        picks = flat[torch.randint(len(flat), codes.shape, generator=generator, device=flat.device)]  # [R, code_dim]
        picks = picks + NOISE_OF_REVIVED_CODES * torch.randn(picks.shape, generator=generator, device=flat.device)
        picks = ranks.interleave(picks)
        mean_count = self.counts.mean()
        self.counts[codes] = torch.where(is_dead, mean_count, self.counts[codes])
        self.codebook[codes] = torch.where(is_dead.unsqueeze(-1), picks, self.codebook[codes])
        self.sums[codes] = torch.where(is_dead.unsqueeze(-1), mean_count * picks, self.sums[codes])
        self.idle_updates[codes] = torch.where(is_dead, 0, idle)

    def _count(self, flat_indices: Tensor) -> Tensor:
        # bincount would synchronise with the device; float32 counts are exact up to 2^24
        ones = torch.ones_like(flat_indices, dtype=torch.float32)
        return torch.zeros_like(self.counts).index_add_(0, flat_indices, ones)  # [K]

    @torch.no_grad()
    def perplexity(self, indices: Tensor) -> Tensor:
        """Return exp(-sum p ln p), a scalar in [1, K], of the use of codes in indices [...]."""
        return _perplexity(self._count(indices.reshape(-1)))

    @torch.no_grad()
    def ema_perplexity(self) -> Tensor:
        """Return exp(-sum p ln p), a scalar in [1, K], of the running counts."""
        return _perplexity(self.counts)


def _perplexity(counts: Tensor) -> Tensor:
    shares = counts / counts.sum()
    return torch.special.entr(shares).sum().exp()
