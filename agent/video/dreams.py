"""A world model's view of one episode: inferred from all frames, and dreamed from parts of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from agent.evaluation.episodes import EnvSource, Mode, agent_env, play_episode, seeded
from agent.learning.agent import Agent
from agent.learning.frames import to_frames
from envs import Step
from world_model.state import State

_STEPS = (1, 5, 15)  # how far ahead open-loop predictions are judged
_MAX_STARTS = 64  # dreams that the open-loop figures are averaged over


class ShortEpisodeError(ValueError):
    """An episode that is not longer than the frames that a dream needs to see first."""


@dataclass(frozen=True)
class DreamScores:
    """PSNR in dB, 10 log10(1 / mean squared error over all pixels), of one held-out episode.

    mean_frame scores the best single frame for the whole episode; open_loop[k] the predicted frame k steps after the
    last one seen, over up to 64 dreams that start throughout the episode and follow its real actions. `cut_at` is the
    agent_steps of an episode that was cut off before its end.
    """

    reconstruction: float
    mean_frame: float
    open_loop: dict[int, float]
    cut_at: int | None = None


class Episode(NamedTuple):
    """One played episode of L rows: frames [1, L, 3, 64, 64] in [0, 1], actions [1, L, A], rewards [L], frames/s.

    `has_ended` is False if it was cut off before its end.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    fps: float
    has_ended: bool
    vectors: Tensor | None = None  # [1, L, V] beside the frames, where the task has them


class Inferred(NamedTuple):
    """The states [L, ...] that the model infers for one episode, and the actions taken [L, A]."""

    states: State
    actions: Tensor


def play_and_keep(
    agent: Agent, seed: int, mode: Mode, max_steps: int | None = None, env: EnvSource | None = None
) -> Episode:
    """Play an episode of the agent's task, or of `env`, from `seed`, and return it on the agent's device."""
    rows: list[Step] = []
    with seeded(agent, seed), agent_env(agent.config, env) as played:
        result = play_episode(agent, played, seed, mode, rows.append, max_steps)
        fps = played.metadata["render_fps"]
    images = torch.from_numpy(np.concatenate([row.image for row in rows])).to(agent.device)
    actions = torch.from_numpy(np.stack([row.action for row in rows], 1)).to(agent.device)
    rewards = torch.from_numpy(np.concatenate([row.reward for row in rows]))
    has_ended = bool(rows[-1].is_last[0]) and not result.is_cut
    vectors = [row.vector for row in rows if row.vector is not None]
    beside = torch.from_numpy(np.stack(vectors, 1)).to(agent.device) if vectors else None
    return Episode(to_frames(images)[None], actions, rewards, fps, has_ended, beside)


def check_context(episode: Episode, context: int) -> None:
    """Raise ShortEpisodeError unless a frame follows the first `context` ones."""
    length = episode.frames.shape[1]
    if not 0 < context < length:
        expected = f"expected 1 to {length - 1}, since the episode has {length} frames"
        raise ShortEpisodeError(f"context: got {context}, {expected}")


@contextmanager
def eval_mode(agent: Agent) -> Iterator[Generator]:
    """Put the model into eval mode without gradients inside the block; yield a generator for its dreams."""
    was_training = agent.model.training
    agent.model.eval()
    try:
        with torch.no_grad():
            yield Generator(agent.device)
    finally:
        agent.model.train(was_training)


def inferred(outputs: dict[str, Any], actions: Tensor, row: int = 0) -> Inferred:
    """Return one row of `forward_sequence`'s outputs, with its actions [B, L, A]."""
    return Inferred(outputs["states"].map(lambda x: x[row]), actions[row])


def dream_on(agent: Agent, episode: Inferred, starts: list[int], horizon: int, generator: Generator) -> State:
    """Dream states [N, horizon, ...] from the posterior at each of N starts, with the real actions."""
    logged = torch.stack([episode.actions[s : s + horizon] for s in starts])  # [N, horizon, A]
    following: Iterator[Tensor] = iter(logged.unbind(1))
    start = episode.states.map(lambda x: x[starts])
    dreamt, _ = agent.model.imagine(start, lambda _: next(following), horizon, generator)
    return dreamt.map(lambda x: x[:, 1:])  # without the start itself


def open_loop(agent: Agent, episode: Inferred, starts: list[int], horizon: int, generator: Generator) -> Tensor:
    """Return the frames [N, horizon, 3, 64, 64] of `dream_on`."""
    return agent.model.decode(dream_on(agent, episode, starts, horizon, generator))


def score(
    agent: Agent, outputs: dict[str, Any], episode: Episode, context: int, generator: torch.Generator
) -> DreamScores:
    """Score `forward_sequence`'s outputs for an episode; dreams start after at least `context` frames."""
    frames, length = episode.frames, episode.frames.shape[1]
    steps = [k for k in _STEPS if k <= length - context]
    last_start = length - 1 - steps[-1]
    count = min(_MAX_STARTS, last_start - context + 2)
    starts = [int(s) for s in np.linspace(context - 1, last_start, count)]
    dreams = open_loop(agent, inferred(outputs, episode.actions), starts, steps[-1], generator)
    ahead = {k: psnr(dreams[:, k - 1], frames[0, [s + k for s in starts]]) for k in steps}
    mean_frame = frames.mean(1, keepdim=True).expand_as(frames)
    return DreamScores(psnr(outputs["reconstructions"], frames), psnr(mean_frame, frames), ahead)


def psnr(predicted: Tensor, target: Tensor) -> float:
    """Return 10 log10(1 / mean squared error) in dB, for frames with values in [0, 1]."""
    return float(-10 * (predicted - target).square().mean().log10())


def to_pictures(frames: Tensor) -> np.ndarray:
    """Convert float [..., 3, 64, 64] in [0, 1] to uint8 [..., 64, 64, 3]."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()
