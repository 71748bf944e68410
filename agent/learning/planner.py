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
    scores: Tensor  # [N, K], returns of the last round's candidates
    states: State  # [N, H + 1, ...], the dream of its best candidate


class MPPI:
    """A planner by model predictive path integral control.

    Every round scores candidate sequences of actions by their dreams, all under the same components and latents: sum of
    discounted rewards and, at the horizon, the smaller of the critic's and its slow copy's value. The elites' mean and
    spread, weighted by their scores, are what the next round draws from. `policy_share` of the candidates are the
    actor's, one of them its mode.

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
        self.proposals = round(config.candidates * config.policy_share)

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
        noise = self.model.prior.draw_noise((config.horizon, *latent.shape), latent, generator)
        mean = torch.cat([before[:, 1:], self.initial(len(before), before)[:, -1:]], 1)
        std = torch.full_like(mean, config.start_std)
        proposed = self._propose(state, noise, generator)
        for _ in range(config.iterations):
            drawn = self._draw(mean, std, generator)
            found = self._dream(state, drawn, noise)
            actions = torch.cat([proposed[0], drawn], 1)
            scores = torch.cat([proposed[1], found[1]], 1)
            mean, std = self._fit(actions, scores)
        best = scores.argmax(1)
        states = State(*(torch.cat(both, 1) for both in zip(proposed[2], found[2], strict=True)))
        chosen = states.map(lambda x: x[torch.arange(len(best), device=best.device), best])
        return Plan(self._act(mean[:, 0], std[:, 0], sample, generator), mean, scores, chosen)

    def _propose(self, state: State, noise: Noise, generator: Generator | None) -> tuple[Tensor, Tensor, State]:
        """Let the actor play in the dream: actions [N, P, H, A], scores [N, P] and states [N, P, H + 1, ...]."""
        actor, count = self.actor_critic.actor, self.proposals
        shape = (self.config.horizon, len(state.latent), count, self.model.config.action_dim)
        action_noise = actor.kind.draw_noise(shape, state.latent, generator)
        action_noise[:, :, :1] = 0.0  # the first candidate is the mode
        following = iter(action_noise.flatten(1, 2))
        starts = state.map(lambda x: x.repeat_interleave(count, 0))

        def act(dreamed: State) -> Tensor:
            return actor(dreamed.features).sample(noise=next(following))[1]

        states, actions = self.model.imagine(starts, act, self.config.horizon, noise=_repeat(noise, count))
        return self._scored(states, actions, count)

    def _dream(self, state: State, actions: Tensor, noise: Noise) -> tuple[Tensor, Tensor, State]:
        """Dream under actions [N, M, H, A]: the same, scores [N, M] and states [N, M, H + 1, ...]."""
        count = actions.shape[1]
        following = iter(actions.flatten(0, 1).unbind(1))
        starts = state.map(lambda x: x.repeat_interleave(count, 0))
        states, played = self.model.imagine(
            starts, lambda _: next(following), self.config.horizon, noise=_repeat(noise, count)
        )
        return self._scored(states, played, count)

    def _scored(self, states: State, actions: Tensor, count: int) -> tuple[Tensor, Tensor, State]:
        """Score dreams [N * count, H + 1, ...] under actions [N * count, H, A], and fold the candidates out."""
        features = states.features[:, 1:]
        rewards = self.model.reward_head.predict(features)
        continues = self.gamma * self.model.continue_head.predict(features)
        reached = torch.cat([torch.ones_like(continues[:, :1]), continues.cumprod(1)], 1)  # [N * count, H + 1]
        last, critic = features[:, -1], self.actor_critic
        value = torch.minimum(critic.critic.value(last), critic.slow_critic.value(last))
        scores = (reached[:, :-1] * rewards).sum(1) + reached[:, -1] * value
        unfolded = states.map(lambda x: x.unflatten(0, (-1, count)))
        return actions.unflatten(0, (-1, count)), scores.unflatten(0, (-1, count)), unfolded

    def _draw(self, mean: Tensor, std: Tensor, generator: Generator | None) -> Tensor:
        """Draw M action sequences [N, M, H, A] from a plan [N, H, A]."""
        count = self.config.candidates - self.proposals
        shape = (len(mean), count, *mean.shape[1:])
        noise = self.actor_critic.actor.kind.draw_noise(shape, mean, generator)
        if self.is_discrete:
            spread = (1 - _UNIFORM_SHARE) * mean + _UNIFORM_SHARE / mean.shape[-1]
            return Categorical(spread.log().unsqueeze(1)).sample(noise=noise)[0]
        return (mean.unsqueeze(1) + std.unsqueeze(1) * noise).clamp(-1, 1)

    def _fit(self, actions: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the elites' weighted mean and spread [N, H, A] of candidates [N, K, H, A] with scores [N, K]."""
        best, places = scores.topk(self.config.elites, 1)
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


def _repeat(noise: Noise, count: int) -> Noise:
    """Return noise [H, N, ...] for `count` candidates of every environment: the same for all of them."""
    return tuple(part.repeat_interleave(count, 1) for part in noise)


PLANNERS: dict[str, type[MPPI] | None] = {"none": None, "mppi": MPPI}
