"""What a planning agent expects: the frames that its plan leads to in the world model's dream."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator

from agent.learning.agent import Agent, Mode
from agent.learning.frames import to_frames
from agent.video.dreams import to_pictures
from agent.video.picture import Picture, tile
from world_model.state import Memory

_GAP, _LEAST = 4, 32  # pixels between an expected frame and the next, and of its least side


class ForeseeingPlayer:
    """A player that acts as its agent does, for one environment, and keeps the frames that its last plan expects."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.expected: NDArray[np.uint8] = np.empty((0, *agent.config.env.image_shape), np.uint8)  # [H, 64, 64, 3]

    def initial_state(self, num_envs: int) -> Any:
        """Return the agent's memory before the first frame."""
        return self.agent.initial_state(num_envs)

    @torch.no_grad()
    def act(
        self,
        images: NDArray[np.uint8],
        is_first: NDArray[np.bool_],
        state: Memory,
        mode: Mode,
        vectors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], Memory]:
        """Choose as the agent does, then dream what it planned, under the same components and latents every time."""
        chosen, memory = self.agent.act(images, is_first, state, mode, vectors)
        frames, first = (torch.from_numpy(x).to(self.agent.device) for x in (images, is_first))
        beside = None if vectors is None else torch.from_numpy(vectors).to(self.agent.device)
        belief, _ = self.agent.model.observe_step(state, to_frames(frames), first, sample=False, vectors=beside)
        noise = Generator(self.agent.device).manual_seed(0)
        dreamt = self.agent.model.rollout(belief, memory.plan[0], noise).frames
        assert dreamt is not None
        self.expected = to_pictures(dreamt[0])
        return chosen, memory


def strip(expected: NDArray[np.uint8], width: int) -> Picture:
    """Arrange expected frames [H, 64, 64, 3] in a row of `width` pixels: as many as fit, from the first to the last."""
    count = min(len(expected), max(1, (width + _GAP) // (_LEAST + _GAP)))
    side = (width + _GAP) // count - _GAP
    shown = expected[np.linspace(0, len(expected) - 1, count).round().astype(int)] if count > 1 else expected[-1:]
    small = [np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BILINEAR)) for x in shown]
    row = tile(small, count, _GAP)
    return np.pad(row, ((_GAP, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
