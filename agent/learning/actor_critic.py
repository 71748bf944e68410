"""Actor and critic on the agent feature f = [g, z]."""

import copy
import math

import torch
from torch import Tensor, nn

from agent.config.settings import BehaviorConfig
from agent.learning.entropy import EntropyBonus
from agent.learning.policies import Categorical, Gaussian, Policy
from agent.learning.returns import ReturnScale
from world_model.distributions import at_least_float32, twohot_log_prob, twohot_mean
from world_model.layers import bounded_std, head

_UNIFORM_SHARE = 0.01  # share of the uniform distribution in a discrete policy (DreamerV3)


class Actor(nn.Module):
    """A network from features [..., F] to a policy over [..., A], nearly independent of the features at first.

    A Gaussian starts with mean 0 and std `start_std`, a Categorical with equal probabilities.
    """

    kind: type[Policy]

    def __init__(self, feature_dim: int, num_outputs: int, config: BehaviorConfig) -> None:
        super().__init__()
        self.net = head(feature_dim, config.hidden_dim, config.num_layers, num_outputs)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        last.weight.data.mul_(0.01)
        last.bias.data.zero_()


class GaussianActor(Actor):
    """An actor over vectors in [-1, 1]^A."""

    kind = Gaussian

    def __init__(self, feature_dim: int, action_dim: int, config: BehaviorConfig) -> None:
        super().__init__(feature_dim, 2 * action_dim, config)
        self.min_std = config.min_std
        start = (config.start_std - config.min_std) / (1.0 - config.min_std)
        self.std_shift = math.log(start / (1.0 - start))

    def forward(self, features: Tensor) -> Gaussian:
        mean, raw_std = at_least_float32(self.net(features)).chunk(2, -1)
        return Gaussian(torch.tanh(mean), bounded_std(raw_std + self.std_shift, self.min_std, 1.0))


class CategoricalActor(Actor):
    """An actor over A discrete actions."""

    kind = Categorical

    def forward(self, features: Tensor) -> Categorical:
        probs = at_least_float32(self.net(features)).softmax(-1)
        return Categorical(((1 - _UNIFORM_SHARE) * probs + _UNIFORM_SHARE / probs.shape[-1]).log())


class Critic(nn.Module):
    """A network from features [..., F] to two-hot logits over symlog returns [..., bins]; its initial value is 0."""

    def __init__(self, feature_dim: int, config: BehaviorConfig) -> None:
        super().__init__()
        self.net = head(feature_dim, config.hidden_dim, config.num_layers, config.num_bins, zero_init=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)

    def value(self, features: Tensor) -> Tensor:
        """Return the expected return [...]."""
        return twohot_mean(self.net(features))

    def nll(self, features: Tensor, *targets: Tensor) -> Tensor:
        """Return the sum over targets [...] of -ln p(target | features), [...], in one forward pass."""
        logits = self.net(features)
        return -torch.stack([twohot_log_prob(logits, target) for target in targets]).sum(0)


class ActorCritic(nn.Module):
    """Actor, critic, the critic's slow copy, the running return scale and the entropy's weight."""

    def __init__(self, feature_dim: int, action_dim: int, config: BehaviorConfig, is_discrete: bool = False) -> None:
        super().__init__()
        actor = CategoricalActor if is_discrete else GaussianActor
        self.actor: Actor = actor(feature_dim, action_dim, config)
        self.critic = Critic(feature_dim, config)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.return_scale = ReturnScale(config.return_decay)
        self.entropy_bonus = EntropyBonus(config, is_discrete)
        self.decay = config.slow_critic_decay

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the slow copy towards the critic by 1 - decay."""
        for slow, fast in zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.decay)
