"""Actor and critic on the agent feature f = [g, z]."""

import copy
import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from agent.config import BehaviorConfig
from agent.returns import ReturnScale
from world_model.distributions import at_least_float32, standard_normal, twohot_log_prob, twohot_mean
from world_model.layers import bounded_std, head


class Policy(NamedTuple):
    """Parameters of a Gaussian over actions: mean in (-1, 1), std in [min_std, 1]; both [..., A]."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: Generator | None = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(raw sample, the same clamped to [-1, 1] with a straight-through gradient), both like `noise` [..., A]."""
        if noise is None:
            noise = standard_normal(self.mean.shape, self.mean, generator)
        raw = self.mean + self.std * noise
        return raw, raw + (raw.clamp(-1, 1) - raw).detach()

    def entropy(self) -> Tensor:
        """Entropy of the Gaussian plus ln(1 - mean²), what the bound takes from it; nats, summed over actions: [...].

        Without the second part nothing holds the mean back: the noise of a model that knows nothing yet, normalised by
        Adam, drove it into the bounds before there was anything to learn from.
        """
        gaussian = self.std.log() + 0.5 * math.log(2 * math.pi * math.e)
        return (gaussian + torch.log1p(-(1 - 1e-6) * self.mean.square())).sum(-1)

    def log_prob(self, raw: Tensor) -> Tensor:
        """Log density of raw samples [..., A] -> [...]."""
        scaled = (raw - self.mean) / self.std
        return (-0.5 * scaled.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


class Actor(nn.Module):
    """features [..., F] -> Policy over [..., A]. The mean starts at 0, the std at `start_std`."""

    def __init__(self, feature_dim: int, action_dim: int, config: BehaviorConfig) -> None:
        super().__init__()
        self.net = head(feature_dim, config.hidden_dim, config.num_layers, 2 * action_dim)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        last.weight.data.mul_(0.01)
        last.bias.data.zero_()
        self.min_std = config.min_std
        start = (config.start_std - config.min_std) / (1.0 - config.min_std)
        self.std_shift = math.log(start / (1.0 - start))

    def forward(self, features: Tensor) -> Policy:
        mean, raw_std = at_least_float32(self.net(features)).chunk(2, -1)
        return Policy(torch.tanh(mean), bounded_std(raw_std + self.std_shift, self.min_std, 1.0))


class Critic(nn.Module):
    """features [..., F] -> two-hot logits over symlog returns [..., bins]; its first values are exactly 0."""

    def __init__(self, feature_dim: int, config: BehaviorConfig) -> None:
        super().__init__()
        self.net = head(feature_dim, config.hidden_dim, config.num_layers, config.num_bins, zero_init=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.net(features)

    def value(self, features: Tensor) -> Tensor:
        """Expected return [...]."""
        return twohot_mean(self.net(features))

    def nll(self, features: Tensor, *targets: Tensor) -> Tensor:
        """Sum over targets [...] of -ln p(target | features), one forward pass: [...]."""
        logits = self.net(features)
        return -torch.stack([twohot_log_prob(logits, target) for target in targets]).sum(0)


class ActorCritic(nn.Module):
    """Actor, critic, the critic's slow copy and the running return scale."""

    def __init__(self, feature_dim: int, action_dim: int, config: BehaviorConfig) -> None:
        super().__init__()
        self.actor = Actor(feature_dim, action_dim, config)
        self.critic = Critic(feature_dim, config)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.return_scale = ReturnScale(config.return_decay)
        self.decay = config.slow_critic_decay

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the slow copy by 1 - decay."""
        for slow, fast in zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.decay)
