"""How good a world model's predictions are: dreams under real actions beside what happened, rewards, values."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from agent.learning.agent import Agent
from agent.learning.returns import played_returns
from agent.report.held_out import HeldOut
from agent.report.probes import resamples
from agent.video.dreams import Inferred, dream_on
from world_model.state import State

Values = NDArray[np.float64]


class DreamErrors(NamedTuple):
    """Dreams of H steps from S starts in each of E episodes, under the actions that were taken; [E, S, H] each.

    frame, still, mean_frame: mean squared error over all pixels of the dreamt frame, of the last frame seen, and of
    the mean frame of all episodes. predicted, came: the reward in the dream, and the one that came.
    """

    frame: Values
    still: Values
    mean_frame: Values
    predicted: Values
    came: Values


@torch.no_grad()
def dream_errors(
    agent: Agent, states: State, data: HeldOut, starts: list[int], horizon: int, generator: Generator
) -> DreamErrors:
    """Dream from the inferred states [E, L, ...] at these rows, and hold it against the episodes' own rows."""
    found: list[list[Tensor]] = []
    best_frame = data.frames.mean((0, 1))
    rows = torch.tensor(starts, device=agent.device)[:, None] + torch.arange(1, horizon + 1, device=agent.device)
    for episode, frames in enumerate(data.frames):
        inferred = Inferred(states.map(lambda x: x[episode].to(agent.device)), data.actions[episode])  # noqa: B023
        dreamt = dream_on(agent, inferred, starts, horizon, generator)
        real = frames[rows]  # [S, H, 3, 64, 64]
        others = (agent.model.decode(dreamt), frames[starts][:, None], best_frame)
        errors = [(real - other).square().mean((-3, -2, -1)) for other in others]
        found.append([*errors, agent.model.reward_head.predict(dreamt.features), data.rewards[episode][rows]])
    return DreamErrors(*(torch.stack(parts).double().cpu().numpy() for parts in zip(*found, strict=True)))


class Band(NamedTuple):
    """A mean and its 95 % interval over episodes, [H] each."""

    mean: Values
    low: Values
    high: Values


def over_episodes(errors: Values, seed: int) -> Band:
    """Return the mean of errors [E, S, H] at each step, with a bootstrap over the episodes."""
    each = errors.mean(1)  # [E, H]
    drawn = resamples(len(each), seed).numpy() @ each / len(each)
    low, high = np.quantile(drawn[1:], (0.025, 0.975), axis=0)
    return Band(drawn[0], low, high)


def horizon_below(errors: Values, control: Values) -> int:
    """Return how many steps of a dream come before the first whose mean error [H] is not below that of a control."""
    worse = np.flatnonzero(errors >= control)
    return int(worse[0]) if len(worse) else len(errors)


class Calibration(NamedTuple):
    """What was predicted beside what came, in groups of equally many predictions, from the lowest to the highest.

    predicted, came: the means [G] of each group; correlation, of all pairs, is nan where either never changes.
    """

    predicted: Values
    came: Values
    correlation: float


def calibration(predicted: Values, came: Values, groups: int = 10) -> Calibration:
    """Sort all predictions into groups, as many as there are predictions at most."""
    order = np.argsort(predicted, axis=None, kind="stable")
    parts = [part for part in np.array_split(order, groups) if len(part)]
    told, real = predicted.ravel(), came.ravel()
    varies = np.ptp(told) > 1e-9 and np.ptp(real) > 1e-9
    return Calibration(
        np.array([told[part].mean() for part in parts]),
        np.array([real[part].mean() for part in parts]),
        float(np.corrcoef(told, real)[0, 1]) if varies else float("nan"),
    )


@torch.no_grad()
def values_and_returns(agent: Agent, features: Tensor, reward: Tensor, is_terminal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the critic's values in the first halves of episodes, and the discounted returns that came: [B, T // 2].

    features [B, T, F] of inferred states; reward, is_terminal [B, T] as in Chunk. Where an episode was cut by its time
    limit the critic's value of its last frame stands for what would have come; hence the first halves, where that
    hardly counts.
    """
    values = agent.actor_critic.critic.value(features)
    is_first = torch.zeros_like(is_terminal)
    came, _ = played_returns(reward, is_first, is_terminal, values, agent.config.behavior.gamma, lambd=1.0)
    half = reward.shape[1] // 2
    return values[:, :half], came[:, :half]
