"""Causal Perceiver IO: a few latents read the 64 tokens of each frame, then attend over time, and are read out."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from world_model.config import PerceiverConfig
from world_model.layers import GRID, check_sizes
from world_model.perceiver_io.attention import (
    LatentBlock,
    QueryAttention,
    TemporalBlock,
    causal_window_mask,
    rotary_angles,
)
from world_model.perceiver_io.tokenizer import NUM_CELLS, Tokenizer

FINE_GRID = 2 * GRID


class PerceiverOutput(NamedTuple):
    context: Tensor  # [B, T, context_dim], squared norm context_dim
    values: Tensor  # [B, T, 64, code_dim], quantised, straight-through
    indices: Tensor  # int64 [B, T, 8, 8]
    commitment: Tensor  # [B, T], summed over the 64 cells
    vectors: Tensor  # [B, T, 64, code_dim], before quantisation


class Cache(NamedTuple):
    """The streaming state of the last window - 1 steps; every field starts with the batch dimension."""

    keys: Tensor  # [N, num_blocks, num_latents * num_heads, window - 1, head_dim], not rotated
    values: Tensor  # the same
    is_valid: Tensor  # bool [N, window - 1]


class CausalPerceiver(nn.Module):
    """The context c_t of the frames x_{<=t} of the current episode (Perceiver IO, arXiv 2107.14795, made causal).

    tokens = quantised cells + cell embedding; latents = read(tokens), mixed within the frame, then attended over the
    last `window` steps of the episode per latent index; c = RMSNorm(read(latents)), so |c|^2 = context_dim. The next
    frame's tokens are predicted from c_t and a_t alone; otherwise no loss needs the context, and it becomes constant.
    With `fine_cells` the latents also read the 256 cells of the trunk's 16 x 16 features, without a code and a loss.
    The cost per frame is O(64 L + L^2 + L window). Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        feature_channels: int,
        action_dim: int,
        config: PerceiverConfig,
        mlp_ratio: float = 2.0,
        image_size: int = 64,
        fine_channels: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(action_dim=action_dim)
        width, num_heads, num_latents = config.width, config.num_heads, config.num_latents
        codebook_size, code_dim, context_dim = config.codebook_size, config.code_dim, config.context_dim
        if width % (2 * num_heads):
            raise ValueError(f"width: got {width}, expected a multiple of 2 * num_heads = {2 * num_heads}")
        if int(mlp_ratio * width) < 1:
            raise ValueError(f"mlp_ratio: got {mlp_ratio}, expected mlp_ratio * width to be at least 1")
        self.feature_channels = feature_channels
        self.action_dim = action_dim
        self.context_dim = context_dim
        self.num_latents = num_latents
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.window = config.window
        self.trains_trunk = config.trains_trunk
        self.tokenizer = Tokenizer(feature_channels, codebook_size, code_dim, image_size)
        self.cell_embedding = nn.Parameter(0.02 * torch.randn(NUM_CELLS, code_dim))
        self.read_fine: nn.Linear | None = None
        num_tokens = NUM_CELLS
        if config.fine_cells:
            num_tokens += FINE_GRID**2
            self.read_fine = nn.Linear(fine_channels, code_dim)
            self.fine_embedding = nn.Parameter(0.02 * torch.randn(FINE_GRID**2, code_dim))
        self.read_tokens = QueryAttention(num_latents, num_tokens, code_dim, width, num_heads, width)
        self.latent_block = LatentBlock(width, num_heads, mlp_ratio)
        self.temporal_blocks = nn.ModuleList(
            TemporalBlock(width, num_heads, mlp_ratio) for _ in range(config.num_blocks)
        )
        self.read_context = QueryAttention(1, num_latents, width, width, num_heads, context_dim)
        self.from_context = nn.Linear(context_dim, num_latents * width)
        self.embed_action = nn.Linear(action_dim, width)
        self.read_next_tokens = QueryAttention(NUM_CELLS, num_latents + 1, width, width, num_heads, codebook_size)

    def forward(
        self,
        features: Tensor,
        is_first: Tensor,
        generator: torch.Generator | None = None,
        fine: Tensor | None = None,
    ) -> PerceiverOutput:
        """Compute the contexts of chunks: features [B, T, Cf, 8, 8], is_first bool [B, T]; index 0 counts as a reset.

        fine: features [B * T, ·, 16, 16] for `fine_cells`. In train mode the first call initialises the codebook with
        its vectors, drawn with `generator`.
        """
        self._check(features, is_first, 5)
        batch, length = is_first.shape
        if not self.trains_trunk:
            features, fine = features.detach(), None if fine is None else fine.detach()
        vectors = self.tokenizer.encode(features.flatten(0, 1))  # [N, 64, code_dim], N = B*T
        self.tokenizer.quantizer.initialise(vectors, generator)
        values, indices, commitment = self.tokenizer.quantizer(vectors)
        latents = self._read_frames(values, fine).unflatten(0, (batch, length))  # [B, T, L, width]
        mask = causal_window_mask(is_first, self.window)
        angles = rotary_angles(length, self.head_dim, features.device)
        for block in self.temporal_blocks:
            latents = block(latents, mask, angles)
        return PerceiverOutput(
            context=self._read_out(latents.flatten(0, 1)).unflatten(0, (batch, length)),
            values=values.unflatten(0, (batch, length)),
            indices=indices.view(batch, length, GRID, GRID),
            commitment=commitment.sum(-1).view(batch, length),
            vectors=vectors.unflatten(0, (batch, length)),
        )

    def step(
        self, features: Tensor, is_first: Tensor, cache: Cache, fine: Tensor | None = None
    ) -> tuple[Tensor, Cache]:
        """Process one frame per row: features [N, Cf, 8, 8], is_first bool [N] -> context [N, context_dim], next cache.

        The result equals `forward` on the whole sequence, however long. The module's state does not change.
        """
        self._check(features, is_first, 4)
        if len(cache.keys) != len(features):
            raise ValueError(f"cache: got {len(cache.keys)} rows, expected the features' {len(features)}")
        values = self.tokenizer.quantizer(self.tokenizer.encode(features)).values
        latents = self._read_frames(values, fine)  # [N, L, width]
        is_valid = torch.cat([cache.is_valid & ~is_first.unsqueeze(-1), torch.ones_like(is_first).unsqueeze(-1)], -1)
        mask = is_valid[:, None, None]  # [N, 1, 1, W]
        angles = rotary_angles(self.window, self.head_dim, features.device)
        keys, values = [], []
        for block, block_keys, block_values in zip(
            self.temporal_blocks, cache.keys.unbind(1), cache.values.unbind(1), strict=True
        ):
            latents, new_keys, new_values = block.step(latents, block_keys, block_values, mask, angles)  # type: ignore[operator]
            keys.append(new_keys)
            values.append(new_values)
        return self._read_out(latents), Cache(torch.stack(keys, 1), torch.stack(values, 1), is_valid[:, 1:])

    def initial_cache(self, batch_size: int, device: torch.device | str | None = None) -> Cache:
        """Return an empty cache for batch_size rows, by default on the module's device."""
        place = self.cell_embedding.new_zeros((), device=device)
        blocks, rows = len(self.temporal_blocks), self.num_latents * self.num_heads
        empty = place.new_zeros(batch_size, blocks, rows, self.window - 1, self.head_dim)
        return Cache(empty, empty.clone(), place.new_zeros(batch_size, self.window - 1, dtype=torch.bool))

    def reconstruct(self, values: Tensor) -> Tensor:
        """Decode quantised values [..., 64, code_dim] to frames [..., 3, 64, 64], for the codebook's own loss."""
        return self.tokenizer.decode(values.flatten(0, -3)).unflatten(0, values.shape[:-2])

    def next_token_logits(self, context: Tensor, actions: Tensor) -> Tensor:
        """Return logits [..., 64, codebook_size] of frame t+1's tokens from c_t [..., context_dim] and a_t [..., A]."""
        lead = context.shape[:-1]
        if actions.shape != (*lead, self.action_dim):
            raise ValueError(f"actions: got shape {tuple(actions.shape)}, expected {(*lead, self.action_dim)}")
        spread = self.from_context(context).unflatten(-1, (self.num_latents, -1))  # [..., L, width]
        tokens = torch.cat([spread, self.embed_action(actions).unsqueeze(-2)], -2)  # [..., L+1, width]
        return self.read_next_tokens(tokens.flatten(0, -3)).unflatten(0, lead)

    def perplexity(self, indices: Tensor) -> Tensor:
        """Return the effective number of codes in indices [...], a scalar in [1, codebook_size]."""
        return self.tokenizer.quantizer.perplexity(indices)

    def update_codebook(self, output: PerceiverOutput, generator: torch.Generator | None = None) -> None:
        """Move the codebook towards the vectors of a training forward, at its end; no effect in eval mode."""
        self.tokenizer.quantizer.update(output.vectors, output.indices.flatten(2), generator)

    def _read_frames(self, values: Tensor, fine: Tensor | None) -> Tensor:
        tokens = values + self.cell_embedding  # [N, 64, code_dim]
        if self.read_fine is not None and fine is not None:
            cells = self.read_fine(fine.flatten(-2).mT) + self.fine_embedding  # [N, 256, code_dim]
            tokens = torch.cat([tokens, cells], 1)
        return self.latent_block(self.read_tokens(tokens))  # [N, L, width]

    def _read_out(self, latents: Tensor) -> Tensor:
        context = self.read_context(latents).squeeze(1)  # [N, 1, C] -> [N, C]
        with torch.autocast(context.device.type, enabled=False):
            return nn.functional.rms_norm(context.float(), (self.context_dim,))

    def _check(self, features: Tensor, is_first: Tensor, ndim: int) -> None:
        if features.ndim != ndim or features.shape[-3:] != (self.feature_channels, GRID, GRID):
            lead = "[B, T, " if ndim == 5 else "[N, "
            raise ValueError(
                f"features: got shape {tuple(features.shape)}, expected {lead}{self.feature_channels}, {GRID}, {GRID}]"
            )
        if is_first.shape != features.shape[:-3] or is_first.dtype != torch.bool:
            raise ValueError(
                f"is_first: got {is_first.dtype} {tuple(is_first.shape)}, expected bool {tuple(features.shape[:-3])}"
            )
