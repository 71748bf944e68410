"""A video of dreams under the agent's policy, which it learns from, beside the real continuation of the episode."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from agent.evaluation.episodes import EnvSource, Mode
from agent.learning.agent import Agent
from agent.video.dreams import Episode, check_context, eval_mode, play_and_keep, to_pictures
from agent.video.picture import Caption, Picture, darken, enlarge, stack, tile
from envs import VideoWriter
from world_model.state import State

_CELLS_OF_ZOOM = {4: 4, 3: 12, 2: 30}  # pixels per pixel of a frame of 64 -> most cells of that size
_WIDEST = ("dream 000", "value -000.0", "reward -00.00", "return -000.0")


class Imagination(NamedTuple):
    """Sums of rewards after the start: the real one, and the predicted one of each dream.

    value is the critic's prediction at the start; steps is the number of rewards in each sum: the horizon, or less if
    the real episode ended earlier.
    """

    real: float
    dreamt: tuple[float, ...]
    value: float
    steps: int


class DreamStep(NamedTuple):
    """One step of N dreams: pictures uint8 [N, 64, 64, 3], the others [N]."""

    pictures: NDArray[np.uint8]
    rewards: NDArray[np.floating]
    values: NDArray[np.floating]
    has_ended: NDArray[np.bool_]


def record_imagination(
    agent: Agent,
    path: str | Path,
    seed: int = 0,
    context: int = 5,
    horizon: int = 50,
    dreams: int = 8,
    mode: Mode = "sample",
    env: EnvSource | None = None,
    compact: bool = False,
) -> Imagination:
    """Write a grid of a real episode and of `dreams` dreams from one of its states, under the agent's policy.

    Every cell shows the first `context` frames of the episode, which is of the agent's task or of `env`. Then each
    dream continues for `horizon` steps, with components and latents drawn from the prior and actions from the policy
    (its means if `mode` is "deterministic"). Captions show the predicted reward and value, and the sum of rewards. A
    cell is darkened once its episode has ended; a dream ends when the model first predicts that. `compact` as in
    VideoWriter. ValueError for numbers below 1, ShortEpisodeError if the episode is not longer than `context`.
    """
    for name, number in (("context", context), ("horizon", horizon), ("dreams", dreams)):
        if number < 1:
            raise ValueError(f"{name}: got {number}, expected at least 1")
    episode = play_and_keep(agent, seed, mode, context + horizon - 1, env)
    check_context(episode, context)
    real = to_pictures(episode.frames[0])
    length = len(real)
    with eval_mode(agent) as generator, VideoWriter(path, episode.fps, compact) as video:
        generator.manual_seed(seed)
        start = _belief(agent, episode, context)
        value = float(agent.actor_critic.critic.value(start.features)[0])
        layout = _Grid(dreams, context, episode)
        for t in range(context):
            video.add(layout.draw(t, real[t], None, np.zeros(dreams)))
        steps = length - context
        sums, compared = np.zeros(dreams), np.zeros(dreams)
        for k, step in enumerate(imagine(agent, start, horizon, dreams, mode, generator)):
            sums += step.rewards
            compared += step.rewards * (k < steps)
            t = context + k
            video.add(layout.draw(t, real[t] if t < length else darken(real[-1]), step, sums))
    came = float(episode.rewards[context:].sum())
    return Imagination(came, tuple(compared.tolist()), value, steps)


def _belief(agent: Agent, episode: Episode, context: int) -> State:
    """Return the model's state [1, ...] after `context` frames, with latents at their means."""
    seen = episode.frames[:, :context], episode.actions[:, :context]
    vectors = None if episode.vectors is None else episode.vectors[:, :context]
    return agent.model.observe(*seen, sample=False, vectors=vectors).states.map(lambda x: x[:, -1])


def imagine(
    agent: Agent, start: State, horizon: int, dreams: int, mode: Mode, generator: Generator
) -> Iterator[DreamStep]:
    """Dream `dreams` times from state [1, ...] under the agent's policy; yield `horizon` DreamSteps."""
    model, critic = agent.model, agent.actor_critic.critic
    act = partial(agent.choose, mode=mode, generator=generator)
    state = start.map(lambda x: x.expand(dreams, *x.shape[1:]))
    has_ended = torch.zeros(dreams, dtype=torch.bool, device=agent.device)
    for _ in range(horizon):
        state = model.imagine(state, act, 1, generator)[0].map(lambda x: x[:, 1])
        has_ended = has_ended | (model.continue_head.predict(state.features) < 0.5)
        figures = model.reward_head.predict(state.features), critic.value(state.features)
        rewards, values = (x.float().cpu().numpy() for x in figures)
        yield DreamStep(to_pictures(model.decode(state)), rewards, values, has_ended.cpu().numpy())


class _Grid:
    """The layout of the video: the real episode first, then the dreams."""

    def __init__(self, dreams: int, context: int, episode: Episode) -> None:
        cells, size = dreams + 1, episode.frames.shape[-1]
        zoom = next((zoom for zoom, most in _CELLS_OF_ZOOM.items() if cells <= most), 1)
        self._zoom = max(1, 64 * zoom // size)
        self._columns = math.ceil(math.sqrt(cells))
        self._caption = Caption(size * self._zoom, _WIDEST, 8 + 2 * zoom)
        width = self._columns * (size * self._zoom + 4) - 4
        self._status = Caption(width, ["watching the first 0000 frames", "0000.00 s"])
        self._context, self._fps = context, episode.fps
        self._rewards = episode.rewards.numpy()
        self._dreams = dreams

    def draw(self, t: int, real: Picture, step: DreamStep | None, sums: NDArray[np.floating]) -> Picture:
        """Draw the frame at row t; `step` is None while the model observes."""
        ahead = t - self._context + 1
        stage = f"dreaming, +{ahead} steps" if step is not None else f"watching the first {self._context} frames"
        came = self._rewards[self._context : t + 1].sum()
        reward = f"reward {self._rewards[t]:z.2f}" if t < len(self._rewards) else "ended"
        cells = [self._cell(real, "real", "", reward, f"return {came:z.1f}")]
        for i in range(self._dreams):
            if step is None:
                cells.append(self._cell(real, f"dream {i + 1}", "", "", ""))
                continue
            picture = darken(step.pictures[i]) if step.has_ended[i] else step.pictures[i]
            numbers = (f"reward {step.rewards[i]:z.2f}", f"return {sums[i]:z.1f}")
            cells.append(self._cell(picture, f"dream {i + 1}", f"value {step.values[i]:z.1f}", *numbers))
        return stack([self._status.draw(stage, f"{t / self._fps:.2f} s"), tile(cells, self._columns)])

    def _cell(self, picture: Picture, *texts: str) -> Picture:
        return stack([enlarge(picture, self._zoom), self._caption.draw(*texts)])
