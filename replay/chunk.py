"""Chunk: a batch of sequences for the learner."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Chunk(NamedTuple):
    """B windows of T consecutive rows. Row t holds the observation at time t, then the chosen action.

    A window may span episodes (is_first inside it), and may begin in the middle of one.
    """

    image: Tensor  # uint8 [B, T, H, W, 3]
    reward: Tensor  # float32 [B, T], arrived with the image; 0 where is_first
    is_first: Tensor  # bool [B, T]
    is_last: Tensor  # bool [B, T], the last row of an episode, for any reason
    is_terminal: Tensor  # bool [B, T], the last row, with no value beyond it
    action: Tensor  # float32 [B, T, A] in [-1, 1], chosen after seeing the image; zeros where is_last
    vector: Tensor | None = None  # float32 [B, T, V], beside the image; None where observations are frames alone

    def fields(self) -> dict[str, Tensor]:
        """Return the fields that are there, by name."""
        return {name: field for name, field in self._asdict().items() if field is not None}

    def map(self, function: Callable[[Tensor], Tensor]) -> "Chunk":
        """Apply a function to every field that is there."""
        return Chunk(**{name: function(field) for name, field in self.fields().items()})

    def to(self, device: torch.device | str) -> "Chunk":
        """Return the chunk with every field on `device`. From pinned memory the copy does not block the host."""
        return self.map(lambda field: field.to(device, non_blocking=field.is_pinned()))
