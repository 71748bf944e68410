"""An agent's weights apart from its training: what a file of an agent holds, and what a new run can start from.

They are those that evaluations play with: the average of the weights where a run keeps one.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from agent.config.settings import Config
from agent.learning.agent import Agent
from agent.run_folder.schema import Array, check

Weights = dict[str, Tensor]

_PLACES = ("model", "actor_critic")
_CRITIC, _SLOW_CRITIC = "actor_critic.critic.", "actor_critic.slow_critic."
# Parts that are read by losses alone. Acting, planning and dreaming do without them, and a new run begins them anew.
_FOR_LOSSES = (
    "model.teacher.",
    "model.motion.head.",
    "model.perceiver.tokenizer.patch.",
    "model.perceiver.from_context.",
    "model.perceiver.embed_action.",
    "model.perceiver.read_next_tokens.",
)


class Start(NamedTuple):
    """What a new run starts from: an agent's weights, its spaces and settings, and its name with the file's hash."""

    name: str
    config: Config
    action_dim: int
    is_discrete: bool
    weights: Weights

    def give_to(self, agent: Agent) -> None:
        """Replace a new agent's weights. ValueError, naming this start, unless they, actions and frames fit."""
        got, expected = (_spaces(x.action_dim, x.is_discrete, x.config) for x in (self, agent))
        if got != expected:
            raise ValueError(f"from: got {self.name} with {got}, expected {expected} as in {agent.config.task}")
        try:
            check_weights(self.weights, agent)
        except ValueError as error:
            advice = "without --preset a run takes the settings of the agent that it starts from"
            raise ValueError(f"from: got {self.name}, whose {error}; {advice}") from None
        use_weights(agent, self.weights)


def _spaces(action_dim: int, is_discrete: bool, config: Config) -> str:
    actions = "discrete actions" if is_discrete else "continuous action dimensions"
    vector_dim = config.world_model.vector_dim
    beside = "" if vector_dim is None else f" with vectors of {vector_dim} numbers"
    frames = f"frames of {config.env.size} pixels" if config.env.size else "no frames"
    return f"{action_dim} {actions} and {frames}{beside}"


def weights_of(agent: Agent, averaged: bool = True) -> Weights:
    """Return copies of the weights and buffers of world model, actor and critic by name, on the CPU.

    averaged: take the average of the weights where there is one, as evaluations do.
    """
    with agent.average.swapped() if averaged else nullcontext():
        named = {f"{place}.{name}": x for place in _PLACES for name, x in getattr(agent, place).state_dict().items()}
        return {name: value.detach().cpu().clone() for name, value in named.items()}


def for_acting(weights: Weights) -> Weights:
    """Return the weights without those that neither acting nor planning nor dreaming needs."""
    return {name: value for name, value in weights.items() if not name.startswith((*_FOR_LOSSES, _SLOW_CRITIC))}


def check_weights(weights: Mapping[str, Tensor], agent: Agent) -> None:
    """Raise ValueError unless these are an agent's weights, with or without those that acting does not need."""
    own = weights_of(agent)
    expected = {name: own[name] for name in own if name in weights} | for_acting(own)
    check(dict(weights), {name: Array(None, tuple(value.shape)) for name, value in expected.items()}, "weights")
    for name, value in weights.items():
        is_float = value.is_floating_point() and own[name].is_floating_point()
        if not is_float and value.dtype != own[name].dtype:
            raise ValueError(f"weights.{name}: got {value.dtype}, expected {own[name].dtype}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"weights.{name}: got numbers that are not finite, expected finite ones")


@torch.no_grad()
def use_weights(agent: Agent, weights: Weights) -> None:
    """Replace an agent's weights by checked ones; where the slow critic is missing it becomes a copy of the critic."""
    of_critic = {name: value for name, value in weights.items() if name.startswith(_CRITIC)}
    slow = {_SLOW_CRITIC + name.removeprefix(_CRITIC): value for name, value in of_critic.items()}
    merged = weights_of(agent) | slow | weights
    for place in _PLACES:
        own = {name.removeprefix(f"{place}."): x for name, x in merged.items() if name.startswith(f"{place}.")}
        getattr(agent, place).load_state_dict(own)
    agent.average.load_state_dict(dict(agent.named_weights()))
