"""The model's state over time, shared by acting, training and dreaming."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from world_model.perceiver_io import Cache, PerceiverOutput


class State(NamedTuple):
    """The model's belief at one time t, after frame x_t and before action a_t; leading dimensions [...] are free.

    hidden, cell: [..., L, H], LSTM output and cell of every layer *before* a_t (hidden's top layer is the carry g_t).
    latent: [..., D], z_t. context: [..., C], the transition's input besides z_t and a_t (ĉ_t if closed).
    """

    hidden: Tensor
    cell: Tensor
    latent: Tensor
    context: Tensor

    @property
    def carry(self) -> Tensor:
        """The carry g_t [..., H]."""
        return self.hidden[..., -1, :]

    @property
    def features(self) -> Tensor:
        """The agent feature f_t = [g_t, z_t] [..., H + D]."""
        return torch.cat([self.carry, self.latent], -1)

    def map(self, function: Callable[[Tensor], Tensor]) -> "State":
        """Apply a tensor function to every field."""
        return State(*map(function, self))


class Memory(NamedTuple):
    """The state of acting between frames: the LSTM after the last action, the Perceiver's window, the last frames."""

    hidden: Tensor  # [N, L, H]
    cell: Tensor  # [N, L, H]
    cache: Cache | None  # the Perceiver's keys and values; None if pillar 1 is off
    frames: tuple[Tensor, ...] = ()  # earlier frames [N, 3, 64, 64] of the trunk's stack, newest first
    plan: tuple[Tensor, ...] = ()  # a planner's last plan [N, H, A], where the agent plans


class Inputs(NamedTuple):
    """A checked chunk; the first index of is_first is set."""

    observations: Tensor  # [B, T, 3, 64, 64] in [0, 1]
    actions: Tensor  # [B, T, A]
    is_first: Tensor  # bool [B, T]
    rewards: Tensor | None = None  # [B, T]
    is_terminal: Tensor | None = None  # [B, T]


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


def stack_states(states: list[State], dim: int) -> State:
    """Stack a list of states along a new time dimension."""
    return State(*(torch.stack(parts, dim) for parts in zip(*states, strict=True)))
