"""The mixture's components over time: which one when, for how long, what follows, and what each looks like."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.learning.agent import Agent
from agent.report.inference import Inference
from agent.video.dreams import to_pictures
from agent.video.picture import Picture

EXAMPLES = 3  # real frames of each component
MOST_SHOWN = 12  # components with pictures, the most used ones

Index = NDArray[np.int64]


class Component(NamedTuple):
    """One component in B episodes of L rows.

    share: of the rows in which it is the most responsible. reward: the mean of these rows. dwell: rows of each stretch
    in which it stays the most responsible. prototype: the component's mean, decoded at the typical row, which is the
    member whose latent is nearest to the members' mean; typical: that row's frame; examples [N, H, W, 3]: frames of
    members, spread evenly. Pictures are None for components that are not shown.
    """

    number: int
    share: float
    reward: float
    dwell: Index
    prototype: Picture | None = None
    typical: Picture | None = None
    examples: Picture | None = None


def transitions(index: Index, count: int) -> Index:
    """Return how often component i is followed by j in the next row of the same episode: [B, L] -> [K, K]."""
    found = np.zeros((count, count), np.int64)
    np.add.at(found, (index[:, :-1].ravel(), index[:, 1:].ravel()), 1)
    return found


def next_shares(counts: Index) -> NDArray[np.float64]:
    """Return where each component goes when it is left: counts [K, K] -> shares of the switches, rows of 1 or 0."""
    switches = counts * (1 - np.eye(len(counts), dtype=np.int64))
    return switches / np.maximum(1, switches.sum(1, keepdims=True))


def stretches(index: Index) -> tuple[Index, Index]:
    """Return the component and the length in rows of every stretch of one component: [B, L] -> two arrays.

    A stretch ends with its episode at the latest.
    """
    numbers, lengths = [], []
    for row in index:
        begins = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
        numbers.append(row[begins])
        lengths.append(np.diff(np.r_[begins, len(row)]))
    return np.concatenate(numbers), np.concatenate(lengths)


def component_figures(index: Index, rewards: NDArray[np.floating], count: int) -> list[Component]:
    """Return the components without pictures, the most used first: index and rewards [B, L]."""
    numbers, lengths = stretches(index)
    found = []
    for k in range(count):
        is_member = index == k
        reward = float(rewards[is_member].mean()) if is_member.any() else float("nan")
        found.append(Component(k, float(is_member.mean()), reward, lengths[numbers == k]))
    return sorted(found, key=lambda component: -component.share)


@torch.no_grad()
def with_pictures(agent: Agent, components: list[Component], inference: Inference, frames: Tensor) -> list[Component]:
    """Add the pictures of the most used components: frames [B, L, 3, H, W]."""
    assert inference.responsibilities is not None
    latents, index = inference.sources["z"], inference.responsibilities.argmax(-1)
    found = []
    for place, component in enumerate(components):
        rows = (index == component.number).nonzero()
        if not len(rows) or place >= MOST_SHOWN:
            found.append(component)
            continue
        members = latents[tuple(rows.T)]
        typical = rows[(members - members.mean(0)).square().sum(-1).argmin()]
        spread = rows[np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).round().astype(int)]
        at = tuple(typical.tolist())
        state = inference.states.map(lambda x: x[at][None].to(agent.device))  # noqa: B023
        means = getattr(agent.model.prior(state.prior_input), "means", None)
        # A prior of one's own may have components without means; the row's own latent then stands for the component.
        mean = state.latent if means is None else means[:, component.number]
        prototype = to_pictures(agent.model.decode(state._replace(latent=mean)))[0]
        examples = to_pictures(frames[tuple(spread.T)])
        found.append(component._replace(prototype=prototype, typical=to_pictures(frames[at]), examples=examples))
    return found
