"""Frames around their running mean: what moves reaches the trunk at unit scale, and no background has to be learned."""

from typing import Any

import torch
from torch import Tensor, nn

MIN_SCALE = 0.02  # of a pixel in [0, 1]: frames that never change are not blown up


class FrameNorm(nn.Module):
    """x <-> (x - mean) / scale with a running mean frame [3, 64, 64] and one running scale for all pixels.

    A pole is a few thin pixels on a floor that never changes: seen around a constant it moves the features by a few
    per cent, and the latent stays empty for a thousand updates. Both statistics are buffers: taken from the first
    training batch, moved after each later one (`update`), constant in eval. So a forward pass stays a pure function of
    weights, buffers and inputs, and nothing is pooled over the time of the chunk that is being read.
    """

    mean: Tensor
    scale: Tensor
    is_initialised: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.full((3, 64, 64), 0.5))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("is_initialised", torch.zeros((), dtype=torch.bool))
        self._is_known_initialised = False  # the flag above where the host has set it: no wait for the device

    def forward(self, frames: Tensor) -> Tensor:
        """Frames [..., 3, 64, 64] in [0, 1] -> the trunk's input of the same shape."""
        return (frames - self.mean).div_(self.scale)  # in place: a pass over all frames takes milliseconds

    def restore(self, normalised: Tensor) -> Tensor:
        """The inverse: what a decoder draws -> frames."""
        return torch.addcmul(self.mean, self.scale, normalised)

    @torch.no_grad()
    def initialise(self, frames: Tensor) -> None:
        """Take the statistics of the first training batch [N, 3, 64, 64]; later calls and eval mode change nothing."""
        if not self.training or self._is_known_initialised:
            return
        mean, scale = self._statistics(frames)
        self.mean.copy_(torch.where(self.is_initialised, self.mean, mean))
        self.scale.copy_(torch.where(self.is_initialised, self.scale, scale))
        self.is_initialised.fill_(True)
        self._is_known_initialised = True

    @torch.no_grad()
    def update(self, frames: Tensor) -> None:
        """Move the statistics towards those of a training batch [N, 3, 64, 64], at the end of its forward pass."""
        if not self.training:
            return
        mean, scale = self._statistics(frames)
        # New tensors, not changed ones: the backward pass still to come needs those of this forward.
        self.mean = self.mean.lerp(mean, 1 - self.decay)
        self.scale = self.scale.lerp(scale, 1 - self.decay)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._is_known_initialised = False  # what is loaded may be of a model that has not begun
        super()._load_from_state_dict(*args, **kwargs)

    def _statistics(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        mean = frames.mean(0)
        variance = torch.linalg.vector_norm(frames).square() / frames.numel() - mean.square().mean()
        return mean, variance.clamp_min(MIN_SCALE**2).sqrt()
