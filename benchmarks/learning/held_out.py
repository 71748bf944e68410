"""Episodes that a run has not seen, with the simulator's true state."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent.evaluation.episodes import agent_env, episode_rows, seeded
from agent.learning.agent import Agent, Mode
from agent.learning.frames import to_frames


@dataclass
class HeldOut:
    """Episodes of one length: frames [B, L, 3, 64, 64], actions [B, L, A], rewards [B, L], is_terminal [B, L].

    simulator: float64 [B, L] by variable, the state that each frame shows; empty where the environment does not tell.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    is_terminal: Tensor
    simulator: dict[str, Tensor]


def play(agent: Agent, episodes: int, seed: int, mode: Mode) -> HeldOut:
    """Episodes with the seeds seed, seed + 1, ...; all are cut to the length of the shortest."""
    with agent_env(agent.config) as env, seeded(agent, seed):
        played = [
            [(row, env.simulator_state()) for row, _ in episode_rows(agent, env, seed + i, mode)]
            for i in range(episodes)
        ]
    length = min(map(len, played))

    def field(name: str) -> Tensor:
        stacked = np.stack([np.concatenate([getattr(row, name) for row, _ in rows[:length]]) for rows in played])
        return torch.from_numpy(stacked).to(agent.device)

    def variable(name: str) -> Tensor:
        return torch.tensor([[state[name] for _, state in rows[:length]] for rows in played], dtype=torch.float64)

    simulator = {name: variable(name) for name in played[0][0][1]}
    frames = to_frames(field("image"))
    return HeldOut(frames, field("action"), field("reward"), field("is_terminal"), simulator)
