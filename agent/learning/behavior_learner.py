"""Learning in imagination: dreams from posterior states, whose lambda-returns train actor and critic."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from agent.config.settings import BehaviorConfig, OptimizerConfig
from agent.learning.actor_critic import ActorCritic
from agent.learning.exploration import Exploration
from agent.learning.policies import Gaussian, Policy
from agent.learning.returns import dream_weights, lambda_returns, played_returns
from world_model import DPGMMVariationalRecurrentAutoencoder, ranks
from world_model.prior import Noise
from world_model.state import State


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Let gradients pass through these modules to their inputs, but not to their parameters."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class ReplayTargets(NamedTuple):
    """Replayed experience: features [B, T, F] of posterior states, without gradient; rewards and flags as in Chunk."""

    features: Tensor
    reward: Tensor
    is_first: Tensor
    is_terminal: Tensor


class Dream(NamedTuple):
    """A dream of H steps from N starts, with the outputs of actor and critic."""

    features: Tensor  # [N, H + 1, F]
    rewards: Tensor  # [N, H]
    continues: Tensor  # [N, H]
    values: Tensor  # [N, H + 1]
    policy: Policy  # at the first H features
    raw_actions: Tensor  # samples [N, H, A] before clamping, without gradient


class BehaviorLearner:
    """Actor-critic updates in the dreams of a frozen world model.

    With `gradient` "dynamics" the actor maximises V^λ through the dreamed transitions (Dreamer), with "reinforce" the
    log-probability times the advantage; "auto" is "dynamics" for continuous actions and "reinforce" for discrete ones,
    through whose samples there is no true gradient. The actor always gets detached features.
    """

    def __init__(
        self,
        model: DPGMMVariationalRecurrentAutoencoder,
        actor_critic: ActorCritic,
        config: BehaviorConfig,
        optimizer: OptimizerConfig,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        exploration: Exploration | None = None,
    ) -> None:
        self.model, self.actor_critic = model, actor_critic
        self.exploration = exploration if exploration is not None else Exploration(config, 0, 0, is_discrete=False)
        self.config, self.autocast = config, autocast
        self.clip = optimizer.behavior_clip
        is_continuous = actor_critic.actor.kind is Gaussian
        self.through_dream = config.gradient == "dynamics" or (config.gradient == "auto" and is_continuous)
        groups = [
            {"params": list(actor_critic.actor.parameters()), "lr": optimizer.actor_lr},
            {"params": list(actor_critic.critic.parameters()), "lr": optimizer.critic_lr},
        ]
        self.optimizer = torch.optim.Adam(groups, eps=optimizer.behavior_eps, fused=True)

    def update(
        self,
        start: State,
        root_continue: Tensor,
        generator: Generator | None = None,
        played: ReplayTargets | None = None,
        updates: int = 0,
    ) -> dict[str, Tensor]:
        """Take one gradient step from dream starts [N, ...] with their real continue flags [N]; return metrics.

        updates: number of earlier updates, for a scheduled target std. With `replay_value` the critic is also fitted to
        the returns of `played`.
        """
        config, networks = self.config, self.actor_critic
        with self.autocast(), frozen(self.model, networks.critic, self.exploration):
            dream = self._dream(start, generator)
            returns = lambda_returns(dream.rewards, dream.continues, dream.values, config.gamma, config.lambd)  # [N, H]
        weights = dream_weights(root_continue, dream.continues, config.gamma).detach()
        scale = networks.return_scale(returns.detach())
        if self.through_dream:
            objective = returns / scale
        else:
            advantage = (returns - dream.values[:, :-1]) / scale
            objective = dream.policy.log_prob(dream.raw_actions) * advantage.detach()
        entropy = dream.policy.entropy()
        actor_loss = -(weights * (objective + networks.entropy_bonus(dream.policy, entropy))).mean()
        features = dream.features[:, :-1].detach()
        with self.autocast():
            with torch.no_grad():
                slow_values = networks.slow_critic.value(features)
            critic_loss = (weights * networks.critic.nll(features, returns.detach(), slow_values)).mean()
        extra: dict[str, Tensor] = {}
        if config.replay_value > 0 and played is not None:
            extra["replay_value_loss"] = self._replay_value_loss(played)
            critic_loss = critic_loss + config.replay_value * extra["replay_value_loss"]
        step_metrics = self._step(actor_loss, critic_loss)
        step_metrics |= networks.entropy_bonus.follow(dream.policy, updates)
        return {
            **step_metrics,
            "actor_loss": actor_loss.detach(),
            "critic_loss": critic_loss.detach(),
            "actor_entropy": entropy.detach().mean(),
            **{name: value.detach() for name, value in dream.policy.metrics().items()},
            "dream_return": returns.detach().mean(),
            "dream_reward": dream.rewards.detach().mean(),
            "dream_continue": dream.continues.detach().mean(),
            "dream_value": dream.values.detach().mean(),
            "return_scale": scale,
            **{name: value.detach() for name, value in extra.items()},
        }

    def _step(self, actor_loss: Tensor, critic_loss: Tensor) -> dict[str, Tensor]:
        """Take one optimizer step, skipped if gradients are not finite; return that flag and the gradient norms."""
        networks = self.actor_critic
        self.optimizer.zero_grad(set_to_none=True)
        (actor_loss + critic_loss).backward()
        ranks.average_gradients([*networks.actor.parameters(), *networks.critic.parameters()])
        actor_norm = nn.utils.clip_grad_norm_(networks.actor.parameters(), self.clip)
        critic_norm = nn.utils.clip_grad_norm_(networks.critic.parameters(), self.clip)
        is_finite = torch.isfinite(actor_norm) & torch.isfinite(critic_norm)
        # Fused Adam skips a non-finite step on the device: weights, moments and step count stay unchanged.
        self.optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        networks.update_slow_critic()
        return {
            "behavior_skipped": (~is_finite).float(),
            "actor_grad_norm": actor_norm,
            "critic_grad_norm": critic_norm,
        }

    def _replay_value_loss(self, played: ReplayTargets) -> Tensor:
        """Return -ln p of the replayed lambda-returns (DreamerV3's replay value loss).

        Dreams may predict rewards that never occur; this loss grounds the critic in the real outcomes.
        """
        config, networks = self.config, self.actor_critic
        with self.autocast():
            with torch.no_grad():
                values = networks.critic.value(played.features)
                slow_values = networks.slow_critic.value(played.features[:, :-1])
            returns, has_return = played_returns(
                played.reward, played.is_first, played.is_terminal, values, config.gamma, config.lambd
            )
            return (has_return * networks.critic.nll(played.features[:, :-1], returns, slow_values)).mean()

    def _dream(self, start: State, generator: Generator | None) -> Dream:
        """Dream from `start`, with the gradients that the actor's objective needs."""
        if self.through_dream:
            return self._rollout(start, generator)
        with torch.no_grad():
            dream = self._rollout(start, generator)
        policy = self.actor_critic.actor(dream.features[:, :-1])  # evaluated again with gradients, all steps at once
        return dream._replace(policy=policy)

    def _rollout(self, start: State, generator: Generator | None) -> Dream:
        """Return a dream whose transitions, rewards and values are differentiable with respect to the actions."""
        horizon, latent = self.config.horizon, start.latent
        noise = self.model.draw_noise((horizon, len(latent)), generator)
        kind = self.actor_critic.actor.kind
        action_noise = kind.draw_noise((horizon, len(latent), self.model.config.action_dim), latent, generator)
        features, raws, *parameters = self.roll(start, noise, action_noise)
        rewards = self.model.reward_head.predict(features[:, 1:])
        bonus = self.exploration.intrinsic_reward(features, raws.clamp(-1, 1))
        if bonus is not None:
            rewards = rewards + bonus
        continues = self.model.continue_head.predict(features[:, 1:])
        return Dream(features, rewards, continues, self.actor_critic.critic.value(features), kind(*parameters), raws)

    def roll(self, start: State, noise: Noise, action_noise: Tensor) -> tuple[Tensor, ...]:
        """Run the sequential part of a dream, without hidden randomness: noise [H, N, ...], action_noise [H, N, A].

        Return features [N, H + 1, F], raw samples [N, H, A] without gradient, and the policy's parameters [N, H, A].
        """
        policies: list[Policy] = []
        raws: list[Tensor] = []

        def act(state: State) -> Tensor:
            policies.append(self.actor_critic.actor(state.features.detach()))
            raw, action = policies[-1].sample(noise=action_noise[len(raws)])
            raws.append(raw)
            return action

        states, _ = self.model.imagine(start, act, len(action_noise), noise=noise)
        parameters = (torch.stack(parts, 1) for parts in zip(*policies, strict=True))
        return states.features, torch.stack(raws, 1).detach(), *parameters
