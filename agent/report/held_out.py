"""Episodes that a run has not seen, with the simulator's true state."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent.evaluation.episodes import agent_env, episode_rows, seeded
from agent.learning.agent import Agent, Mode
from agent.learning.frames import to_frames
from envs import Step
from envs.pixels import PixelEnv

MOST_STEPS = 1000  # agent_steps of an episode, the suite's longest; each row takes 50 kB of memory


@dataclass
class HeldOut:
    """Episodes of one length: frames [B, L, 3, 64, 64], actions [B, L, A], rewards [B, L], is_terminal [B, L].

    simulator: float64 [B, L] by variable, the state that each frame shows; empty where the environment does not tell.
    fps: rows per second of the simulated world. vectors: [B, L, V] beside the frames, where the task has them.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    is_terminal: Tensor
    simulator: dict[str, Tensor]
    fps: float
    vectors: Tensor | None = None


def play(
    agent: Agent, episodes: int, seed: int, mode: Mode, on_row: Callable[[int, PixelEnv], None] | None = None
) -> HeldOut:
    """Play episodes with the seeds seed, seed + 1, ...; all are cut to the length of the shortest, 1,001 rows at most.

    on_row: called with the number of the episode, from 0, and the environment, which shows the row's state.
    """

    def play_one(episode: int, env: PixelEnv) -> list[tuple[Step, dict[str, float]]]:
        found = []
        for row, _ in episode_rows(agent, env, seed + episode, mode, MOST_STEPS):
            found.append((row, env.simulator_state()))
            if on_row is not None:
                on_row(episode, env)
        return found

    with agent_env(agent.config) as env, seeded(agent, seed):
        played = [play_one(episode, env) for episode in range(episodes)]
        fps = env.metadata["render_fps"]
    length = min(map(len, played))

    def field(name: str) -> Tensor:
        stacked = np.stack([np.concatenate([getattr(row, name) for row, _ in rows[:length]]) for rows in played])
        return torch.from_numpy(stacked).to(agent.device)

    def variable(name: str) -> Tensor:
        return torch.tensor([[state[name] for _, state in rows[:length]] for rows in played], dtype=torch.float64)

    simulator = {name: variable(name) for name in played[0][0][1]}
    frames = to_frames(field("image"))
    vectors = None if played[0][0][0].vector is None else field("vector")
    return HeldOut(frames, field("action"), field("reward"), field("is_terminal"), simulator, fps, vectors)
