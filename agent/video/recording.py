"""Videos of whole episodes for people, one after the other or side by side."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

import numpy as np
from gymnasium import Env
from numpy.typing import NDArray

from agent.evaluation.episodes import (
    EnvSource,
    EpisodeResult,
    Mode,
    Player,
    TrainedPlayer,
    agent_env,
    episode_rows,
    reported,
    seeded,
)
from agent.learning.agent import Agent
from agent.video.picture import Caption, Picture, darken, stack, tile
from agent.video.plans import ForeseeingPlayer, strip
from envs import Step, VideoWriter
from envs.pixels import PixelEnv

CAPTIONS_FROM = 128  # the least width at which captions are on by default
_WIDEST = ("000.00 s", "reward -00.00", "return -0000.0")


def record(
    agent: TrainedPlayer,
    path: str | Path,
    episodes: int = 1,
    seed: int = 0,
    size: int = 256,
    mode: Mode = "deterministic",
    max_frames: int | None = None,
    on_frame: Callable[[NDArray[np.uint8]], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    width: int | None = None,
    captions: bool | None = None,
    grid: bool = False,
    env: EnvSource | None = None,
) -> list[EpisodeResult]:
    """Write episodes from seeds seed, seed + 1, ... as one video, `size` pixels high, in simulated real time.

    A frame is `width` pixels wide (None: as wide as high); captions (None: if it is at least 128 wide) show simulated
    seconds, reward and return so far. Under the frames of an agent that plans stand those that its plan expects. `grid`
    plays all episodes at once, side by side, and keeps the darkened last frame of ended ones. `max_frames` bounds each
    episode's frames. `on_frame` gets every frame and `on_step` every row; an exception from them ends the recording.
    `env` replaces the agent's task; a grid needs a function that makes one. The file appears only when it is complete;
    ValueError as for VideoWriter.
    """
    if grid and episodes > 1 and isinstance(env, Env):
        raise ValueError(f"env: got one for a grid of {episodes}, expected a function that makes one")
    width = size if width is None else width
    captions = width >= CAPTIONS_FROM if captions is None else captions
    caption = Caption(width, _WIDEST, min(20, max(10, width // 20))) if captions else None
    max_steps = None if max_frames is None else max_frames - 1
    results = [EpisodeResult(0.0, 0)] * episodes

    def views(index: int, played: PixelEnv) -> Iterator[Picture]:
        """Yield the frames of one episode."""
        player = _player(agent)
        for row, result in episode_rows(player, played, seed + index, mode, max_steps):
            with reported():
                frame = played.render_frame(size, width)
            if isinstance(player, ForeseeingPlayer):
                frame = stack([frame, strip(player.expected, width)])
            if caption is not None:
                frame = stack([frame, caption.draw(*_texts(row, result, played.metadata["render_fps"]))])
            results[index] = result
            if on_step is not None:
                on_step(row)
            yield frame

    with ExitStack() as opened:
        envs = [opened.enter_context(agent_env(agent.config, env)) for _ in range(episodes if grid else 1)]
        video = opened.enter_context(VideoWriter(path, envs[0].metadata["render_fps"]))
        opened.enter_context(seeded(agent, seed))
        if grid:
            frames = side_by_side([views(i, played) for i, played in enumerate(envs)], size)
        else:
            frames = (frame for i in range(episodes) for frame in views(i, envs[0]))
        for frame in frames:
            video.add(frame)
            if on_frame is not None:
                on_frame(frame)
    return results


def _player(agent: TrainedPlayer) -> Player:
    """Return who plays: the agent, or one that also keeps the frames that its plans expect, if it sees any."""
    if isinstance(agent, Agent) and agent.planner is not None and agent.config.env.size > 0:
        return ForeseeingPlayer(agent)
    return agent


def _texts(row: Step, result: EpisodeResult, fps: float) -> tuple[str, str, str]:
    """Return what the caption of a row says."""
    return f"{result.length / fps:.2f} s", f"reward {row.reward[0]:z.2f}", f"return {result.total:z.1f}"


def side_by_side(streams: list[Iterator[Picture]], height: int) -> Iterator[Picture]:
    """Yield the frames of several streams in a square grid.

    An ended stream keeps its last frame with the uppermost `height` rows darkened, so that captions stay readable.
    """
    last: list[Picture] = []
    for frames in zip_longest(*streams):
        last = [old if new is None else new for old, new in zip(last or frames, frames, strict=True)]
        shown = [darken(old, height) if new is None else new for old, new in zip(last, frames, strict=True)]
        yield tile(shown, math.ceil(math.sqrt(len(shown))))
