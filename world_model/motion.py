"""A second, small trunk for how things move, which learns from rewards alone.

The trunk of pillars 1, 2 and 4 is the reconstruction's: its gradient drowns that of the reward, and what decides many
rewards, a velocity, is a small part of a frame's pixels (docs/logbook.md, 2026-11-29).
"""

import torch
from torch import Tensor, nn

from world_model.config import HeadConfig
from world_model.heads import RewardHead
from world_model.trunk import ConvTrunk

CHANNELS = 16  # of the first layer, as `base_channels` in ConvTrunk
GAIN = 2.0  # of the change, which is smaller than the frames it lies between


class MotionTrunk(nn.Module):
    """A network from a frame and its change since the one before to its motion [N, M], and what learns from it.

    `forward`: two frames side by side, the newer first, [N, 6, 64, 64] centred at 0 -> [N, M].
    `inform`: motion [..., M] -> the posterior's [..., P], without gradient to the motion.
    `nll`: the reward's loss, which is all that trains the motion.
    """

    def __init__(
        self, motion_dim: int, action_dim: int, posterior_dim: int, config: HeadConfig, image_size: int
    ) -> None:
        super().__init__()
        self.trunk = ConvTrunk(CHANNELS, residual=False, stem_stride=8, frame_stack=2, image_size=image_size)
        channels = self.trunk.out_channels
        self.squeeze = nn.Sequential(nn.Conv2d(channels, channels // 4, 1), nn.SiLU(), nn.Flatten())
        self.embed = nn.Sequential(nn.Linear(channels // 4 * 64, motion_dim), nn.LayerNorm(motion_dim))
        self.head = RewardHead(motion_dim + action_dim, config)
        self.to_posterior = nn.Linear(motion_dim, posterior_dim, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        newer, older = frames.chunk(2, 1)
        return self.embed(self.squeeze(self.trunk(torch.cat([newer, GAIN * (newer - older)], 1))))

    def inform(self, motion: Tensor) -> Tensor:
        """Return what the posterior's first layer adds for the motion."""
        return self.to_posterior(motion.detach())

    def nll(self, motion: Tensor, actions: Tensor, is_first: Tensor, rewards: Tensor) -> Tensor:
        """Return -ln p(r_t | motion_t, a_{t-1}) of a chunk: motion [B, T, M], actions [B, T, A], the rest [B, T].

        At the chunk's first index and at resets the action is taken as 0.
        """
        before = torch.cat([torch.zeros_like(actions[:, :1]), actions[:, :-1]], 1)
        before = torch.where(is_first.unsqueeze(-1), 0.0, before)
        return self.head.nll(torch.cat([motion, before], -1), rewards)
