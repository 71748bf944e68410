"""A toy agent and a chunk of noise for it."""

from typing import Any

import torch

from agent.config.presets import make_config
from agent.learning.agent import Agent
from replay import Chunk


def make_agent(device: str = "cpu", **changes: Any) -> Agent:
    """The debug preset's agent; changes are settings with "__" for the dots."""
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    return Agent(make_config("debug", "reaching", settings), 1, device)


def make_chunk(batch: int, length: int) -> Chunk:
    """The same noise at every call, no resets."""
    random = torch.Generator().manual_seed(0)
    flags = torch.zeros(batch, length, dtype=torch.bool)
    image = torch.randint(0, 256, (batch, length, 64, 64, 3), generator=random, dtype=torch.uint8)
    reward = torch.rand(batch, length, generator=random)
    return Chunk(image, reward, flags, flags, flags, 2 * torch.rand(batch, length, 1, generator=random) - 1)
