"""Planning at the moment of acting: MPPI over action sequences, dreamt in the world model's latent space.

MPPI (Williams et al. 2015, arXiv 1509.01149) with a learned model, the actor's proposals among the candidates and the
critic's value at the end, as TD-MPC does (Hansen et al. 2022, arXiv 2203.04955). Discrete actions are planned by the
same rounds over their probabilities, which is the cross-entropy method.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from agent.config.settings import PlannerConfig
from agent.learning.actor_critic import ActorCritic
from agent.learning.policies import Categorical
from world_model import DPGMMVariationalRecurrentAutoencoder
from world_model.prior import Noise
from world_model.state import State

_LEAST_SPREAD = 1e-6  # of the elites' scores: below it they are alike
_UNIFORM_SHARE = 0.1  # share of uniform chance among a plan's discrete actions, so that none dies out


class Plan(NamedTuple):
    """What a planner decided for N environments."""

    action: Tensor  # [N, A], what to do now
    actions: Tensor  # [N, H, A], means of the whole plan, or probabilities of its discrete actions


class Candidates(NamedTuple):
    """Sequences of actions, and how their dreams scored."""

    actions: Tensor  # [N, K, H, A]
    scores: Tensor  # [N, K]


class MPPI:
    """A planner by model predictive path integral control.

    Sequences of actions are scored by their dreams, all under the same components and latents: sum of discounted
    rewards and, at the horizon, the smaller of the critic's and its slow copy's value. `policy_share` of the candidates
    are the actor's, one of them its mode; one is the plan before. Mean and spread of the elites, weighted by their
    scores, are what a round draws the others from.

    Args:
        model: the world model.
        actor_critic: actor, critic and slow critic.
        config: its settings.
        gamma: discount per agent_step.
    """

    name = "mppi"

    def __init__(
        self,
        model: DPGMMVariationalRecurrentAutoencoder,
        actor_critic: ActorCritic,
        config: PlannerConfig,
        gamma: float,
    ) -> None:
        self.model, self.actor_critic, self.config, self.gamma = model, actor_critic, config, gamma
        self.is_discrete = actor_critic.actor.kind is Categorical
        self.proposals = config.proposals

    def initial(self, batch: int, like: Tensor) -> Tensor:
        """Return the plan [N, H, A] of a new episode, on the device of `like`: all 0, or equal probabilities."""
        action_dim = self.model.config.action_dim
        start = 1 / action_dim if self.is_discrete else 0.0
        return like.new_full((batch, self.config.horizon, action_dim), start)

    @torch.no_grad()
    def __call__(self, state: State, before: Tensor, sample: bool = False, generator: Generator | None = None) -> Plan:
        """Plan for beliefs [N, ...] from the plan one step earlier, `before` [N, H, A].

        The action is the plan's mean (likeliest one), or with `sample` a draw from the plan.
        """
        config, latent = self.config, state.latent
        noise = self.model.draw_noise((config.horizon, len(latent)), generator)
        shifted = torch.cat([before[:, 1:], self.initial(len(before), before)[:, -1:]], 1)
        if self.is_discrete:
            shifted = Categorical(shifted).mode
        known = _together(self._propose(state, noise, generator), self._dream(state, shifted.unsqueeze(1), noise))
        found = known
        for _ in range(config.iterations):
            drawn = self._draw(*self._fit(found), generator)
            found = _together(known, self._dream(state, drawn, noise))
        mean, std = self._fit(found)
        return Plan(self._act(mean[:, 0], std[:, 0], sample, generator), mean)

    def _propose(self, state: State, noise: Noise, generator: Generator | None) -> Candidates:
        """Let the actor play in the dream, P times."""
        actor, count = self.actor_critic.actor, self.proposals
        shape = (self.config.horizon, len(state.latent), count, self.model.config.action_dim)
        action_noise = actor.kind.draw_noise(shape, state.latent, generator)
        action_noise[:, :, :1] = 0.0  # the first candidate is the mode
        following = iter(action_noise.flatten(1, 2))
        starts = state.map(lambda x: x.repeat_interleave(count, 0))

        def act(dreamed: State) -> Tensor:
            return actor(dreamed.features).sample(noise=next(following))[1]

        states, actions = self.model.imagine(starts, act, self.config.horizon, noise=repeat_noise(noise, count))
        return self._scored(states, actions, count)

    def _dream(self, state: State, actions: Tensor, noise: Noise) -> Candidates:
        """Dream under actions [N, M, H, A]."""
        count = actions.shape[1]
        following = iter(actions.flatten(0, 1).unbind(1))
        starts = state.map(lambda x: x.repeat_interleave(count, 0))
        states, played = self.model.imagine(
            starts, lambda _: next(following), self.config.horizon, noise=repeat_noise(noise, count)
        )
        return self._scored(states, played, count)

    def _scored(self, states: State, actions: Tensor, count: int) -> Candidates:
        """Score dreams [N * count, H + 1, ...] under actions [N * count, H, A], and fold the candidates out."""
        features = states.features[:, 1:]
        rewards = self.model.reward_head.predict(features)
        continues = self.gamma * self.model.continue_head.predict(features)
        reached = torch.cat([torch.ones_like(continues[:, :1]), continues.cumprod(1)], 1)  # [N * count, H + 1]
        value = least_value(self.actor_critic, features[:, -1])
        scores = (reached[:, :-1] * rewards).sum(1) + reached[:, -1] * value
        return Candidates(actions.unflatten(0, (-1, count)), scores.unflatten(0, (-1, count)))

    def _draw(self, mean: Tensor, std: Tensor, generator: Generator | None) -> Tensor:
        """Draw M action sequences [N, M, H, A] from a plan [N, H, A]."""
        count = self.config.candidates - self.proposals - 1
        shape = (len(mean), count, *mean.shape[1:])
        noise = self.actor_critic.actor.kind.draw_noise(shape, mean, generator)
        if self.is_discrete:
            spread = (1 - _UNIFORM_SHARE) * mean + _UNIFORM_SHARE / mean.shape[-1]
            return Categorical(spread.log().unsqueeze(1)).sample(noise=noise)[0]
        return (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(-1, 1)

    def _fit(self, found: Candidates) -> tuple[Tensor, Tensor]:
        """Return the weighted mean and spread [N, H, A] of the best candidates' actions."""
        actions = found.actions
        best, places = found.scores.topk(min(self.config.elites, actions.shape[1]), 1)
        spread = best.std(1, correction=0, keepdim=True).clamp_min(_LEAST_SPREAD)
        weights = ((best - best[:, :1]) / (self.config.temperature * spread)).softmax(1)[..., None, None]
        elites = actions.gather(1, places[..., None, None].expand(-1, -1, *actions.shape[2:]))
        mean = (weights * elites).sum(1)
        std = (weights * (elites - mean.unsqueeze(1)).square()).sum(1).sqrt()
        return mean, std.clamp_min(self.config.min_std)

    def _act(self, mean: Tensor, std: Tensor, sample: bool, generator: Generator | None) -> Tensor:
        """Choose the action [N, A] of a plan's first step [N, A]."""
        noise = self.actor_critic.actor.kind.draw_noise(mean.shape, mean, generator) if sample else None
        if self.is_discrete:
            policy = Categorical(mean.clamp_min(1e-8).log())
            return policy.mode if noise is None else policy.sample(noise=noise)[0]
        return mean if noise is None else (mean + std * noise).clamp(-1, 1)


def _together(some: Candidates, others: Candidates) -> Candidates:
    """Return all candidates of both."""
    return Candidates(*(torch.cat(both, 1) for both in zip(some, others, strict=True)))


def least_value(actor_critic: ActorCritic, features: Tensor) -> Tensor:
    """Return the smaller of the critic's and its slow copy's value of features [..., F] -> [...]."""
    return torch.minimum(actor_critic.critic.value(features), actor_critic.slow_critic.value(features))


def repeat_noise(noise: Noise, count: int) -> Noise:
    """Return noise [H, N, ...] for `count` candidates of every environment: the same for all of them."""
    return tuple(part.repeat_interleave(count, 1) for part in noise)


PLANNERS: dict[str, type[MPPI] | None] = {"none": None, "mppi": MPPI}
