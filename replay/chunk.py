"""Chunk: a batch of sequences, as the learner sees them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Chunk(NamedTuple):
    """B windows of T consecutive rows. Row t holds what the agent met at time t, then what it chose.

    A window may run from one episode into the next (is_first inside it); its own first row may be in the middle of one.
    """

    image: Tensor  # uint8 [B, T, H, W, 3]
    reward: Tensor  # float32 [B, T], arrived with the image; 0 where is_first
    is_first: Tensor  # bool [B, T]
    is_last: Tensor  # bool [B, T], for any reason
    is_terminal: Tensor  # bool [B, T], the last row with no future value
    action: Tensor  # float32 [B, T, A] in [-1, 1], chosen after seeing the image; zeros where is_last

    def to(self, device: torch.device | str) -> "Chunk":
        """The same chunk with every field on `device`. From pinned memory the host does not wait for the copy."""
        return Chunk(*(field.to(device, non_blocking=field.is_pinned()) for field in self))
