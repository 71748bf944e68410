"""A video of one episode beside the world model's reconstruction, dream, errors and attention."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agent.evaluation.episodes import EnvSource, Mode
from agent.learning.agent import Agent
from agent.video.charts import Chart, line_chart, share_chart
from agent.video.dreams import (
    DreamScores,
    Episode,
    check_context,
    dream_on,
    eval_mode,
    inferred,
    play_and_keep,
    score,
    to_pictures,
)
from agent.video.picture import Caption, Picture, enlarge, overlay, stack, tile
from envs import VideoWriter

_SIDE, _GAP = 256, 4  # pixels of a panel at most, and between panels
_GAIN = 4  # factor on the error panels
_REWARDS, _COMPONENTS = 110, 64  # heights of the charts, pixels
_MOST_STEPS = 2000  # agent_steps, twice the suite's longest episode; each takes 0.4 MB of memory


@dataclass
class _Panels:
    """The panels of each row: pictures uint8 [L, 64, 64, 3], maps [L, S, 8, 8] (None without the attention schema)."""

    real: NDArray[np.uint8]
    seen: NDArray[np.uint8]
    dreamt: NDArray[np.uint8]
    maps: NDArray[np.floating] | None
    rewards: NDArray[np.floating]
    context: int
    fps: float

    @property
    def zoom(self) -> int:
        """Pixels per pixel of the agent."""
        return max(1, _SIDE // self.real.shape[1])

    @property
    def side(self) -> int:
        """Pixels of a panel."""
        return self.zoom * self.real.shape[1]

    @property
    def width(self) -> int:
        """Pixels of a row of panels."""
        return 3 * (self.side + _GAP) - _GAP


def record_dream(
    agent: Agent,
    path: str | Path,
    seed: int = 0,
    context: int = 5,
    mode: Mode = "deterministic",
    env: EnvSource | None = None,
) -> DreamScores:
    """Write one episode: real | reconstruction | open loop after `context` frames, with attention and errors below.

    The episode is of the agent's task, or of `env`. The reconstruction sees every frame (latents at their means), the
    open loop only the first `context` frames and then the actions. Charts show the real reward and both predictions,
    and the mixture's components (posterior responsibilities) if there are several. An endless episode is cut off after
    2,000 agent_steps. ShortEpisodeError, a ValueError, if the episode is not longer than `context`.
    """
    episode = play_and_keep(agent, seed, mode, _MOST_STEPS, env)
    check_context(episode, context)
    length = episode.frames.shape[1]
    with eval_mode(agent) as generator:
        generator.manual_seed(seed)
        outputs = agent.model.forward_sequence(
            episode.frames, episode.actions, generator=generator, sample=False, vectors=episode.vectors
        )
        seen = inferred(outputs, episode.actions)
        states = dream_on(agent, seen, [context - 1], length - context, generator)
        frames = torch.cat([outputs["reconstructions"][:, :context], agent.model.decode(states)], 1)
        panels = _panels(episode, outputs, to_pictures(frames[0]), context)
        expected = {
            "expected, watching": agent.model.reward_head.predict(seen.states.features),
            "expected, open loop": agent.model.reward_head.predict(states.features[0]),
        }
        scores = score(agent, outputs, episode, context, generator)
    lines = {"real": panels.rewards} | {
        name: np.pad(values.cpu().numpy(), (length - len(values), 0), constant_values=np.nan)
        for name, values in expected.items()
    }
    charts = [line_chart("reward:", lines, panels.width, _REWARDS)]
    responsibilities = outputs.get("responsibilities")  # of a prior with components
    if responsibilities is not None and responsibilities.shape[-1] > 1:
        shares = responsibilities[0].float().cpu().numpy()
        charts.append(share_chart("component of the mixture:", shares, panels.width, _COMPONENTS))
    _write(path, panels, charts)
    return scores if episode.has_ended else replace(scores, cut_at=length - 1)


def _panels(episode: Episode, outputs: dict[str, Any], dreamt: NDArray[np.uint8], context: int) -> _Panels:
    maps = outputs.get("attention_maps")
    return _Panels(
        to_pictures(episode.frames[0]),
        to_pictures(outputs["reconstructions"][0]),
        dreamt,
        None if maps is None else maps[0].float().cpu().numpy(),
        episode.rewards.numpy(),
        context,
        episode.fps,
    )


def _write(path: str | Path, panels: _Panels, charts: list[Chart]) -> None:
    label = Caption(panels.side, ["reconstruction"])
    status = Caption(panels.width, ["watching the first 0000 frames", "0000.00 s", "reward -00.00", "return -0000.0"])
    returns = panels.rewards.cumsum()
    attention = "attention, one colour per slot" if panels.maps is not None else "no attention in this model"
    errors = (f"error of the {name} x {_GAIN}" for name in ("reconstruction", "open loop"))
    labels = [label.draw(name) for name in ("real", "reconstruction", "open loop", attention, *errors)]
    with VideoWriter(path, panels.fps) as video:
        for t, real in enumerate(panels.real):
            pictures = [real, panels.seen[t], panels.dreamt[t]]
            pictures += [_attended(panels, t), *(_error(real, other) for other in pictures[1:])]
            cells = [
                stack([text, picture if picture.shape[0] == panels.side else enlarge(picture, panels.zoom)])
                for text, picture in zip(labels, pictures, strict=True)
            ]
            ahead = t - panels.context + 1
            stage = f"open loop, +{ahead} steps" if ahead > 0 else f"watching the first {panels.context} frames"
            numbers = (f"{t / panels.fps:.2f} s", f"reward {panels.rewards[t]:z.2f}", f"return {returns[t]:z.1f}")
            video.add(stack([status.draw(stage, *numbers), tile(cells, 3, _GAP), *(chart.at(t) for chart in charts)]))


def _attended(panels: _Panels, t: int) -> Picture:
    """Return the real frame under its posterior maps, at the video's size; white without the attention schema."""
    if panels.maps is None:
        return np.full_like(panels.real[t], 255)
    return overlay(enlarge(panels.real[t], panels.zoom), panels.maps[t])


def _error(real: Picture, other: Picture) -> Picture:
    """Return _GAIN times the absolute difference, at most 255."""
    difference = np.abs(real.astype(np.int16) - other)
    return (_GAIN * difference).clip(max=255).astype(np.uint8)
