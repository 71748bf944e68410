"""Normalisation of frames by a running mean, so that moving things have unit scale and the background is removed."""

from typing import Any

import torch
from torch import Tensor, nn

from world_model import ranks

MIN_SCALE = 0.02  # for pixels in [0, 1], so that frames that never change are not amplified


class FrameNorm(nn.Module):
    """The map (x - mean) / scale and its inverse, with a running mean frame [3, 64, 64] and one running scale.

    A pole is a few thin pixels on a constant floor: without the mean it changes the features by a few per cent, and the
    latent stays empty for a thousand updates. Both statistics are buffers: taken from the first training batch, moved
    after each later one (`update`), constant in eval mode and for frames of size 0. So a forward pass is a pure
    function of weights, buffers and inputs, and nothing is pooled over the time of the current chunk.
    """

    mean: Tensor
    scale: Tensor
    is_initialised: Tensor

    def __init__(self, decay: float = 0.99, image_size: int = 64) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.full((3, image_size, image_size), 0.5))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("is_initialised", torch.zeros((), dtype=torch.bool))
        self._is_known_initialised = False  # a copy of the flag on the host, which avoids a synchronisation

    def forward(self, frames: Tensor) -> Tensor:
        """Normalise frames [..., 3, 64, 64] in [0, 1] for the trunk."""
        return (frames - self.mean).div_(self.scale)  # in place: a pass over all frames takes milliseconds

    def restore(self, normalised: Tensor) -> Tensor:
        """Return frames from normalised ones, such as a decoder's output."""
        return torch.addcmul(self.mean, self.scale, normalised)

    @torch.no_grad()
    def initialise(self, frames: Tensor) -> None:
        """Take the statistics of the first training batch [N, 3, 64, 64]; later calls and eval mode change nothing."""
        if not self.training or self._is_known_initialised or self.mean.numel() == 0:
            return
        mean, scale = self._statistics(frames)
        self.mean.copy_(torch.where(self.is_initialised, self.mean, mean))
        self.scale.copy_(torch.where(self.is_initialised, self.scale, scale))
        self.is_initialised.fill_(True)
        self._is_known_initialised = True

    @torch.no_grad()
    def update(self, frames: Tensor) -> None:
        """Move the statistics towards those of a training batch [N, 3, 64, 64], at the end of its forward pass."""
        if not self.training or self.mean.numel() == 0:
            return
        mean, scale = self._statistics(frames)
        # New tensors instead of in-place changes: the pending backward pass needs the current ones.
        self.mean = self.mean.lerp(mean, 1 - self.decay)
        self.scale = self.scale.lerp(scale, 1 - self.decay)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._is_known_initialised = False  # the loaded model may be untrained
        super()._load_from_state_dict(*args, **kwargs)

    def _statistics(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        mean = ranks.mean(frames.mean(0))
        power = ranks.mean(torch.linalg.vector_norm(frames).square() / frames.numel())
        variance = power - mean.square().mean()
        return mean, variance.clamp_min(MIN_SCALE**2).sqrt()
