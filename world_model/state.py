"""The model's state over time, shared by acting, training and dreaming."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from world_model.perceiver_io import Cache, PerceiverOutput
from world_model.slow_latent import SlowOutput


class State(NamedTuple):
    """The model's belief at one time t, after frame x_t and before action a_t; leading dimensions [...] are free.

    hidden, cell: [..., L, H], LSTM output and cell of every layer *before* a_t (hidden's top layer is the carry g_t).
    latent: [..., D], z_t. context: [..., C], the transition's input besides z_t and a_t (ĉ_t if closed).
    The others are empty where an extension is off. arrival: [..., D + A], [z_{t-1}, a_{t-1}], 0 at a reset.
    slow: the slow latent u_t [..., U] and its age in rows [..., 1].
    """

    hidden: Tensor
    cell: Tensor
    latent: Tensor
    context: Tensor
    arrival: tuple[Tensor, ...] = ()
    slow: tuple[Tensor, ...] = ()

    @property
    def carry(self) -> Tensor:
        """The carry g_t [..., H]."""
        return self.hidden[..., -1, :]

    @property
    def features(self) -> Tensor:
        """The agent feature f_t = [g_t, z_t, u_t] [..., H + D + U]; U = 0 without a slow latent."""
        return torch.cat([self.carry, self.latent, *self.slow[:1]], -1)

    @property
    def prior_input(self) -> Tensor:
        """What the prior reads of the state, [..., `config.prior_input_dim`]."""
        return prior_input(self.carry, self.slow, self.arrival)

    def map(self, function: Callable[[Tensor], Tensor]) -> "State":
        """Apply a tensor function to every field."""
        return pytree.tree_map(function, self)


class Memory(NamedTuple):
    """The state of acting between frames: the LSTM after the last action, the Perceiver's window, the last frames."""

    hidden: Tensor  # [N, L, H]
    cell: Tensor  # [N, L, H]
    cache: Cache | None  # the Perceiver's keys and values; None if pillar 1 is off
    frames: tuple[Tensor, ...] = ()  # earlier frames [N, 3, 64, 64] of the trunk's stack, newest first
    plan: tuple[Tensor, ...] = ()  # a planner's last plan [N, H, A], where the agent plans
    arrival: tuple[Tensor, ...] = ()  # of the next state, where the prior reads it
    slow: tuple[Tensor, ...] = ()  # u [N, U], its age [N, 1] and the sum of the carries since, [N, H]


class Inputs(NamedTuple):
    """A checked chunk; the first index of is_first is set."""

    observations: Tensor  # [B, T, 3, 64, 64] in [0, 1]
    actions: Tensor  # [B, T, A]
    is_first: Tensor  # bool [B, T]
    rewards: Tensor | None = None  # [B, T]
    is_terminal: Tensor | None = None  # [B, T]
    vectors: Tensor | None = None  # [B, T, V]


class Observed(NamedTuple):
    """The results of inference on a chunk; every tensor is [B, T, ...]."""

    features: Tensor  # trunk features F
    perceived: PerceiverOutput | None
    context: Tensor  # c_t; zeros if pillar 1 is off
    states: State
    drawn: State  # the same with full samples of q as latents, from which frames and rewards are predicted
    next_carry: Tensor  # h_t, the LSTM's output after a_t
    mean: Tensor  # mean of q(z_t|x_t,c_t,g_t)
    std: Tensor  # its standard deviation
    motion: Tensor | None = None  # what the motion's trunk sees, [B, T, M]
    slow: SlowOutput | None = None


def prior_input(carry: Tensor, slow: tuple[Tensor, ...], arrival: tuple[Tensor, ...]) -> Tensor:
    """Return [g_t, u_t, z_{t-1}, a_{t-1}], or of these what is there, for the prior over z_t."""
    parts = [carry, *slow[:1], *arrival]
    return torch.cat(parts, -1) if len(parts) > 1 else carry


def arrivals(led: tuple[Tensor, ...], start: tuple[Tensor, ...], is_first: Tensor) -> tuple[Tensor, ...]:
    """Move what rows led to [B, T, ·] to the rows after them: `start` [B, ·] at the first one, 0 at resets."""
    moved = []
    for index, x in enumerate(led):
        first = start[index] if start else x[:, 0]  # without a start the first row is a reset
        shifted = torch.cat([first[:, None], x[:, :-1]], 1)
        moved.append(torch.where(is_first[..., None], 0.0, shifted))
    return tuple(moved)


def join(states: Sequence[State], function: Callable[[tuple[Tensor, ...]], Tensor]) -> State:
    """Make one state of several, field by field."""
    return pytree.tree_map(lambda *parts: function(parts), *states)


def stack_states(states: Sequence[State], dim: int) -> State:
    """Stack states along a new dimension."""
    return join(states, lambda parts: torch.stack(parts, dim))
