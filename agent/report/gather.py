"""All that a run's page shows, gathered: the run's folder is read, episodes are played, the model is taken apart."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from agent.config.settings import Config
from agent.evaluation.curves import Panel, Run, load_run, panels
from agent.evaluation.references import Reference, nearest_references
from agent.evaluation.statistics import bootstrap_interval
from agent.learning.agent import Agent
from agent.report import run_log
from agent.report.components import Component, component_figures, next_shares, transitions, with_pictures
from agent.report.dreams import (
    Band,
    Calibration,
    calibration,
    dream_errors,
    horizon_below,
    over_episodes,
    values_and_returns,
)
from agent.report.episode import CONTEXT, SIDE, EpisodeView, Video, episode_view
from agent.report.held_out import HeldOut, play
from agent.report.inference import Inference, infer
from agent.report.information import Figures, mixture_figures
from agent.report.pictures import Token, attention_picture, most_used_tokens, token_shares
from agent.report.probes import resamples, state_figures
from agent.run_folder.load import load_run as load_payload
from agent.video.dreams import ShortEpisodeError
from agent.video.imagination import Imagination, record_imagination
from agent.video.picture import Picture
from envs.pixels import PixelEnv

HORIZON, STARTS = 50, 16  # steps of the dreams that are judged, and of the video; dreams of each episode
DREAMS = 5  # in the video of dreams under the policy
TOKENS, FRAMES = 24, 6  # tokens and frames that are shown
LEAST_EPISODES = 4  # probes learn from the first half


@dataclass(frozen=True)
class RunFacts:
    """The run in figures: settings, returns beside published ones, cost, health, gradients."""

    config: Config
    parameters: int
    score: run_log.Return
    cost: run_log.Cost
    curves: Panel | None
    published: list[Reference]
    health: run_log.HealthRecord
    conflicts: list[run_log.Conflict]
    weights: dict[str, run_log.Series]
    changed: list[str]


@dataclass(frozen=True)
class ModelCard:
    """How good the world model's predictions are on held-out episodes, over the steps of a dream and in groups."""

    frame: Band
    still: Band
    mean_frame: Band
    reconstruction: float
    reward: Band
    mean_reward: Band
    better_frames: int
    better_rewards: int
    rewards_seen: Calibration
    rewards_dreamt: Calibration
    values: Calibration
    state: Figures


@dataclass(frozen=True)
class MixtureLens:
    """The mixture's components: pictures, what follows what (shares [K, K]), what they say, who when [E, L]."""

    components: list[Component]
    following: NDArray[np.float64]
    figures: Figures
    index: NDArray[np.int64]


@dataclass(frozen=True)
class Codebook:
    """The tokens of held-out frames: the share of each code [codes], and the most used ones."""

    shares: NDArray[np.float64]
    tokens: list[Token]


@dataclass(frozen=True)
class ReportData:
    """Everything on the page; parts of pillars that are off are None."""

    run: RunFacts
    episodes: int
    rows: int
    fps: float
    view: EpisodeView
    dreams: Video
    imagined: Imagination
    card: ModelCard
    mixture: MixtureLens | None
    codebook: Codebook | None
    attention: Picture | None
    frame_side: int


def gather(
    agent: Agent, logdir: Path, episodes: int, seed: int = 0, tell: Callable[[str], None] = lambda _: None
) -> ReportData:
    """Play `episodes` held-out episodes with sampled actions and gather all that the page shows.

    ValueError below four episodes, and for a folder without metrics; ShortEpisodeError where the shortest episode has
    no room for a dream; EnvironmentFailure where the environment fails.
    """
    if episodes < LEAST_EPISODES:
        raise ValueError(f"episodes: got {episodes}, expected at least {LEAST_EPISODES}")
    log = load_run(logdir)
    tell(f"playing {episodes} held-out episodes")
    views: list[Picture] = []

    def keep_view(episode: int, env: PixelEnv) -> None:
        if episode == 0:
            views.append(env.render_frame(SIDE))

    data = play(agent, episodes, seed, "sample", keep_view)
    if data.frames.shape[1] <= CONTEXT + 1:
        line = f"task: got episodes of {data.frames.shape[1]} frames, expected more than {CONTEXT + 1}"
        raise ShortEpisodeError(line)
    tell("taking the world model apart")
    inference = infer(agent, data, seed)
    generator = torch.Generator(agent.device).manual_seed(seed)
    card = _model_card(agent, data, inference, seed, generator)
    mixture, codebook, attention = _lenses(agent, data, inference, seed)
    tell("drawing videos")
    view = episode_view(agent, data, inference, views, generator)
    dreams, imagined = _imagine(agent, seed)
    run = _run_facts(agent, logdir, log, data)
    size = (episodes, data.rewards.numel(), data.fps)
    return ReportData(run, *size, view, dreams, imagined, card, mixture, codebook, attention, data.frames.shape[-1])


def _run_facts(agent: Agent, logdir: Path, log: Run, data: HeldOut) -> RunFacts:
    """Read the run's folder; without an evaluation of this checkpoint the return is that of the episodes played."""
    config, counters = agent.config, load_payload(logdir)["counters"]
    score = run_log.stored_return(logdir, agent.updates)
    if score is None:
        returns = data.rewards.double().sum(1).cpu().numpy()
        interval = bootstrap_interval(returns, np.mean)
        score = run_log.Return(float(returns.mean()), *interval, f"{len(returns)} episodes with sampled actions")
    drawn = panels([log])
    tasks = list(agent.model_learner.aggregator.groups)
    return RunFacts(
        config,
        agent.num_parameters,
        score,
        run_log.cost(counters, config, agent.device.type if config.device == "auto" else config.device),
        drawn[0] if drawn else None,
        nearest_references(config.task, counters["env_frames"]),
        run_log.health_record(log.rows, config),
        run_log.conflicts(log.rows, tasks),
        run_log.task_weights(log.rows, tasks),
        run_log.changed_settings(config),
    )


@torch.no_grad()
def _model_card(agent: Agent, data: HeldOut, inference: Inference, seed: int, generator: torch.Generator) -> ModelCard:
    """Judge frames, rewards and values: while the model sees every frame, and in dreams."""
    length = data.frames.shape[1]
    horizon = min(HORIZON, length - CONTEXT - 1)
    starts = [int(s) for s in np.linspace(CONTEXT - 1, length - 1 - horizon, STARTS)]
    errors = dream_errors(agent, inference.states, data, starts, horizon, generator)
    reward = np.abs(errors.predicted - errors.came)
    mean_reward = np.abs(errors.came - float(data.rewards.mean()))
    features = inference.states.features.to(agent.device)
    seen, came = agent.model.reward_head.predict(features), data.rewards
    values, returns = values_and_returns(agent, features, data.rewards, data.is_terminal)
    pairs = [(x.double().cpu().numpy(), y.double().cpu().numpy()) for x, y in ((seen, came), (values, returns))]
    frame, mean_frame, of_reward, of_mean = (
        over_episodes(x, seed) for x in (errors.frame, errors.mean_frame, reward, mean_reward)
    )
    return ModelCard(
        frame,
        over_episodes(errors.still, seed),
        mean_frame,
        _reconstruction_error(agent, data, inference),
        of_reward,
        of_mean,
        horizon_below(frame.mean, mean_frame.mean),
        horizon_below(of_reward.mean, of_mean.mean),
        calibration(*pairs[0]),
        calibration(errors.predicted[:, :, min(14, horizon - 1)], errors.came[:, :, min(14, horizon - 1)]),
        calibration(*pairs[1]),
        state_figures(inference.sources, data.simulator, resamples(len(data.rewards) - len(data.rewards) // 2, seed)),
    )


def _reconstruction_error(agent: Agent, data: HeldOut, inference: Inference) -> float:
    """Return the mean squared error of the frames of all beliefs, one episode at a time."""
    errors = []
    for episode, frames in enumerate(data.frames):
        states = inference.states.map(lambda x: x[episode].to(agent.device))  # noqa: B023
        errors.append((agent.model.decode(states) - frames).square().mean())
    return float(torch.stack(errors).mean())


def _lenses(
    agent: Agent, data: HeldOut, inference: Inference, seed: int
) -> tuple[MixtureLens | None, Codebook | None, Picture | None]:
    """Look at the parts that are on: mixture, codebook, attention."""
    mixture = codebook = picture = None
    if inference.responsibilities is not None:
        shares = inference.responsibilities
        index, count = shares.argmax(-1).numpy(), shares.shape[-1]
        components = component_figures(index, data.rewards.cpu().numpy(), count)
        components = with_pictures(agent, components, inference, data.frames)
        figures = mixture_figures(shares, data.rewards, data.simulator, seed)
        mixture = MixtureLens(components, next_shares(transitions(index, count)), figures, index)
    if inference.tokens is not None:
        codes = agent.model.config.perceiver_config.codebook_size
        tokens = most_used_tokens(agent, inference.tokens, data.frames, TOKENS)
        codebook = Codebook(token_shares(inference.tokens, codes), tokens)
    if inference.attention is not None:
        shown = np.linspace(CONTEXT, data.frames.shape[1] - 1, FRAMES).astype(int)
        parts = (inference.attention.shares, inference.attention.maps, inference.attention.prior_maps)
        picture = attention_picture(data.frames[0, shown], *(part[0, shown] for part in parts))
    return mixture, codebook, picture


def _imagine(agent: Agent, seed: int) -> tuple[Video, Imagination]:
    """Write the video of dreams under the policy."""
    with TemporaryDirectory() as folder:
        found = record_imagination(agent, Path(folder) / "dreams.mp4", seed, CONTEXT, HORIZON, DREAMS, compact=True)
        [path] = [path for path in Path(folder).iterdir() if path.suffix in (".mp4", ".gif")]
        return Video(path.read_bytes(), path.suffix), found
