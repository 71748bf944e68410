"""Videos: whole episodes as people see them, and what the world model remembers and dreams of one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from agent.agent import Agent, to_frames
from agent.evaluation import EpisodeResult, Mode, agent_env, play_episode, seeded
from envs import Step, VideoWriter
from world_model.state import State

_ZOOM, _GAP, _CAPTION = 4, 4, 20  # pixels per pixel of the agent, between panels, height of the captions
_STEPS = (1, 5, 15)  # how far ahead open-loop predictions are judged
_MAX_STARTS = 64  # dreams that the open-loop figures are averaged over


@dataclass(frozen=True)
class DreamScores:
    """PSNR in dB, 10 log10(1 / mean squared error over all pixels), of one held-out episode.

    mean_frame is the best single frame for all of it; open_loop[k] that of the frame k steps after the last one seen,
    over up to 64 dreams started all over the episode, with the actions that were really taken.
    """

    reconstruction: float
    mean_frame: float
    open_loop: dict[int, float]


def record(
    agent: Agent,
    path: str | Path,
    episodes: int = 1,
    seed: int = 0,
    size: int = 256,
    mode: Mode = "deterministic",
    max_frames: int | None = None,
    on_frame: Callable[[NDArray[np.uint8]], None] | None = None,
) -> list[EpisodeResult]:
    """Write episodes from seeds seed, seed + 1, ... as one video of size x size, in the simulated world's own speed.

    `max_frames` bounds each episode's frames; `on_frame` gets every frame too. The file appears when it is whole;
    ValueError as VideoWriter's.
    """
    max_steps = None if max_frames is None else max_frames - 1
    with agent_env(agent.config) as env, VideoWriter(path, env.metadata["render_fps"]) as video, seeded(agent, seed):

        def show(_: Step) -> None:
            frame = env.render_frame(size)
            video.add(frame)
            if on_frame is not None:
                on_frame(frame)

        return [play_episode(agent, env, seed + i, mode, show, max_steps) for i in range(episodes)]


def record_dream(agent: Agent, path: str | Path, seed: int = 0, context: int = 5) -> DreamScores:
    """Write one episode three times side by side: real | reconstruction | open loop after `context` frames.

    The reconstruction sees every frame (latents at their means). The open loop has seen `context` frames and then only
    the actions. ValueError where the episode is not longer than `context`.
    """
    images, actions, fps = _play(agent, seed)
    if not 0 < context < len(images):
        raise ValueError(f"context: got {context}, expected 1 to {len(images) - 1}, the frames that have a next one")
    frames = to_frames(images.to(agent.device))[None]  # [1, L, 3, 64, 64]
    generator = torch.Generator(agent.device).manual_seed(seed)
    was_training = agent.model.training
    agent.model.eval()
    try:
        with torch.no_grad():
            outputs = agent.model.forward_sequence(frames, actions, generator=generator, sample=False)
            reconstruction = outputs["reconstructions"]
            horizon = len(images) - context
            dream = open_loop(agent, watched(outputs, actions), [context - 1], horizon, generator)
            scores = _score(agent, outputs, frames, actions, context, generator)
    finally:
        agent.model.train(was_training)
    dreamed = torch.cat([reconstruction[:, :context], dream], 1)
    panels = [_to_images(x[0]) for x in (frames, reconstruction, dreamed)]
    with VideoWriter(path, fps) as video:
        for t, parts in enumerate(zip(*panels, strict=True)):
            last = f"open loop +{t - context + 1}" if t >= context else "watching"
            video.add(_side_by_side(parts, ("real", "reconstruction", last)))
    return scores


class Watched(NamedTuple):
    """What the model made of one episode, states [L, ...], and the actions taken [L, A]."""

    states: State
    actions: Tensor


def watched(outputs: dict[str, Any], actions: Tensor, row: int = 0) -> Watched:
    """One row of `forward_sequence`'s outputs, with the actions [B, L, A] that it was given."""
    return Watched(outputs["states"].map(lambda x: x[row]), actions[row])


def open_loop(agent: Agent, episode: Watched, starts: list[int], horizon: int, generator: torch.Generator) -> Tensor:
    """Frames [N, horizon, 3, 64, 64] dreamt from the posterior at each of N starts, under the logged actions."""
    model = agent.model
    logged = torch.stack([episode.actions[s : s + horizon] for s in starts])  # [N, horizon, A]
    following: Iterator[Tensor] = iter(logged.unbind(1))
    dreamt, _ = model.imagine(episode.states.map(lambda x: x[starts]), lambda _: next(following), horizon, generator)
    return model.decode(dreamt.map(lambda x: x[:, 1:]))  # the start itself was seen


def _play(agent: Agent, seed: int) -> tuple[Tensor, Tensor, float]:
    """One deterministic episode: images uint8 [L, 64, 64, 3], actions [1, L, A], frames a second."""
    rows: list[Step] = []
    with agent_env(agent.config) as env, seeded(agent, seed):
        play_episode(agent, env, seed, "deterministic", rows.append)
        fps = env.metadata["render_fps"]
    images = torch.from_numpy(np.concatenate([row.image for row in rows]))
    actions = torch.from_numpy(np.stack([row.action for row in rows], 1)).to(agent.device)
    return images, actions, fps


def _score(
    agent: Agent, outputs: dict[str, Any], frames: Tensor, actions: Tensor, context: int, generator: torch.Generator
) -> DreamScores:
    length = frames.shape[1]
    steps = [k for k in _STEPS if k <= length - context]
    last_start = length - 1 - steps[-1]
    count = min(_MAX_STARTS, last_start - context + 2)
    starts = [int(s) for s in np.linspace(context - 1, last_start, count)]
    dreams = open_loop(agent, watched(outputs, actions), starts, steps[-1], generator)
    ahead = {k: psnr(dreams[:, k - 1], frames[0, [s + k for s in starts]]) for k in steps}
    mean_frame = frames.mean(1, keepdim=True).expand_as(frames)
    return DreamScores(psnr(outputs["reconstructions"], frames), psnr(mean_frame, frames), ahead)


def psnr(predicted: Tensor, target: Tensor) -> float:
    """10 log10(1 / mean squared error) in dB, of frames with values in [0, 1]."""
    return float(-10 * (predicted - target).square().mean().log10())


def _to_images(frames: Tensor) -> NDArray[np.uint8]:
    """float [L, 3, 64, 64] -> uint8 [L, 256, 256, 3]; pixels are repeated, so that nothing is smoothed."""
    images = (frames.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()
    return images.repeat(_ZOOM, axis=1).repeat(_ZOOM, axis=2)


def _side_by_side(panels: tuple[NDArray[np.uint8], ...], captions: tuple[str, ...]) -> NDArray[np.uint8]:
    height, width, _ = panels[0].shape
    canvas = np.full((height + _CAPTION, len(panels) * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for i, panel in enumerate(panels):
        canvas[_CAPTION:, i * (width + _GAP) : i * (width + _GAP) + width] = panel
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for i, caption in enumerate(captions):
        draw.text((i * (width + _GAP) + 4, 4), caption, fill=(0, 0, 0))
    return np.asarray(picture)
