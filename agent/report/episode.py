"""One held-out episode for the page's player: a video of what was seen and dreamt, and its traces over time."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from agent.learning.agent import Agent
from agent.report.held_out import HeldOut
from agent.report.inference import Inference
from agent.video.dreams import Inferred, dream_on, to_pictures
from agent.video.picture import Picture, overlay
from envs import VideoWriter
from world_model.state import State

SIDE, GAP = 260, 4  # pixels of the real frame's side, and between panels
PANEL = (SIDE - GAP) // 2  # of each of the four others
STRETCH, CONTEXT = 50, 5  # steps of a dream before it sees a frame again; frames seen before the first
GREY = 128
ROWS = 256  # decoded at once

Trace = NDArray[np.float64]


@dataclass(frozen=True)
class Video:
    """A file as bytes: an mp4, or a gif where no encoder of mp4 works."""

    data: bytes
    suffix: str


@dataclass(frozen=True)
class EpisodeView:
    """A video of L rows, and traces [L] beside it; nan where there is none.

    reward: what came. watched, dreamt: what the model expects while it sees every frame, and in the open loop, which
    sees a frame at each of the rows `restarts` and then actions alone. value: the critic's. shares [L, K]: the
    mixture's components, None for one Gaussian.
    """

    video: Video
    fps: float
    restarts: list[int]
    reward: Trace
    watched: Trace
    dreamt: Trace
    value: Trace
    shares: Trace | None
    has_slots: bool


@torch.no_grad()
def episode_view(
    agent: Agent, data: HeldOut, inference: Inference, views: list[Picture], generator: torch.Generator
) -> EpisodeView:
    """Show the first held-out episode; views: its frames for people, SIDE pixels high and wide."""
    states = inference.states.map(lambda x: x[0].to(agent.device))
    length = data.frames.shape[1]
    restarts = list(range(CONTEXT - 1, length - 1, STRETCH))
    dreams = _dream(agent, states, data.actions[0], restarts, generator)
    model = agent.model
    watched = model.reward_head.predict(states.features)
    dreamt = torch.cat([watched.new_full((CONTEXT,), torch.nan), model.reward_head.predict(dreams.features)])[:length]
    seen = _decode(agent, states)
    dreamt_frames = np.concatenate([seen[:CONTEXT], _decode(agent, dreams)])
    attention = inference.attention
    maps = None if attention is None else attention.maps[0].numpy()
    panels = (to_pictures(data.frames[0]), seen, dreamt_frames, maps)
    shares = inference.responsibilities
    return EpisodeView(
        _write(views[:length], panels, data.fps),
        data.fps,
        restarts,
        _numbers(data.rewards[0]),
        _numbers(watched),
        _numbers(dreamt),
        _numbers(agent.actor_critic.critic.value(states.features)),
        None if shares is None else _numbers(shares[0]),
        attention is not None,
    )


def _numbers(values: Tensor) -> Trace:
    return values.double().cpu().numpy()


def _decode(agent: Agent, states: State) -> NDArray[np.uint8]:
    """Decode states [L, ...] in parts, which bounds the memory."""
    begins = range(0, len(states.latent), ROWS)
    parts = [agent.model.decode(states.map(lambda x: x[begin : begin + ROWS])) for begin in begins]  # noqa: B023
    return to_pictures(torch.cat(parts))


def _dream(agent: Agent, states: State, actions: Tensor, restarts: list[int], generator: torch.Generator) -> State:
    """Dream STRETCH steps from each of these rows, one after the other: states [L - CONTEXT, ...]."""
    padded = functional.pad(actions, (0, 0, 0, STRETCH))  # for the last one, whose end is cut off
    dreams = dream_on(agent, Inferred(states, padded), restarts, STRETCH, generator)
    return dreams.map(lambda x: x.flatten(0, 1)[: len(actions) - CONTEXT])


def _write(
    views: list[Picture],
    panels: tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.floating] | None],
    fps: float,
) -> Video:
    """Write the real episode beside four panels: what the agent sees, reconstruction, open loop, attention."""
    real, seen, dreamt, maps = panels
    with TemporaryDirectory() as folder:
        with VideoWriter(Path(folder) / "episode.mp4", fps, compact=True) as video:
            for t, view in enumerate(views):
                attended = real[t] // 4 + 96 if maps is None else overlay(_fit(real[t]), maps[t])
                video.add(_compose(view, [_fit(x) for x in (real[t], seen[t], dreamt[t], attended)]))
        return Video(video.path.read_bytes(), video.path.suffix)


def _fit(picture: Picture) -> Picture:
    """Enlarge a frame to a panel's side, without smoothing."""
    at = np.arange(PANEL) * len(picture) // PANEL
    return picture[at][:, at]


def _compose(view: Picture, panels: list[Picture]) -> Picture:
    """Arrange the real frame on the left and the four panels in a square on the right."""
    canvas = np.full((SIDE, 2 * SIDE + GAP, 3), GREY, np.uint8)
    canvas[:, :SIDE] = view
    for i, panel in enumerate(panels):
        top, left = (i // 2) * (PANEL + GAP), SIDE + GAP + (i % 2) * (PANEL + GAP)
        canvas[top : top + PANEL, left : left + PANEL] = panel
    return canvas
