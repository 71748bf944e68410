"""Actor and critic on the agent feature f = [g, z]."""

import copy
import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from agent.config.settings import BehaviorConfig
from agent.learning.returns import ReturnScale
from world_model.distributions import at_least_float32, standard_normal, twohot_log_prob, twohot_mean
from world_model.layers import bounded_std, head

_UNIFORM_SHARE = 0.01  # of chance in a policy over discrete actions (DreamerV3)


class Gaussian(NamedTuple):
    """A policy over actions in [-1, 1]^A, its parameters: mean in (-1, 1), std in [min_std, 1]; both [..., A]."""

    mean: Tensor
    std: Tensor

    @property
    def mode(self) -> Tensor:
        """The action of a deterministic player, [..., A]."""
        return self.mean

    @staticmethod
    def draw_noise(shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Tensor:
        """Noise for samples of a shape [..., A], on the device of `like`: a sample is a function of it."""
        return standard_normal(shape, like, generator)

    def sample(self, generator: Generator | None = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(raw sample, the same clamped to [-1, 1] with a straight-through gradient), both like `noise` [..., A]."""
        if noise is None:
            noise = self.draw_noise(self.mean.shape, self.mean, generator)
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

    def explore(self, action: Tensor, amount: float, generator: Generator | None = None) -> Tensor:
        """Actions [..., A] with Gaussian noise of std `amount` on them, clamped to [-1, 1]."""
        return (action + amount * standard_normal(action.shape, action, generator)).clamp(-1, 1)

    def metrics(self) -> dict[str, Tensor]:
        """What to watch of the policy, by name."""
        return {"actor_std": self.std.mean(), "action_magnitude": self.mean.abs().mean()}


class Categorical(NamedTuple):
    """A policy over the one-hot vectors of A discrete actions, its parameters: log-probabilities [..., A].

    The gradient of a sample is that of the probabilities (straight through, as in DreamerV3).
    """

    log_probs: Tensor

    @property
    def mode(self) -> Tensor:
        """The most likely action, [..., A]."""
        return self._one_hot(self.log_probs)

    @staticmethod
    def draw_noise(shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Tensor:
        """Noise for samples of a shape [..., A], on the device of `like`: a sample is a function of it."""
        exponential = torch.empty(shape, device=like.device, dtype=like.dtype).exponential_(generator=generator)
        return -exponential.log()  # Gumbel: the largest of log-probabilities plus this is a sample

    def sample(self, generator: Generator | None = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(sample, the same with a straight-through gradient), both one-hot vectors like `noise` [..., A]."""
        if noise is None:
            noise = self.draw_noise(self.log_probs.shape, self.log_probs, generator)
        chosen = self._one_hot(self.log_probs.detach() + noise)
        probs = self.log_probs.exp()
        return chosen, chosen + (probs - probs.detach())

    def entropy(self) -> Tensor:
        """Entropy in nats: [...]."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def log_prob(self, raw: Tensor) -> Tensor:
        """Log-probability of one-hot vectors [..., A] -> [...]."""
        return (raw * self.log_probs).sum(-1)

    def explore(self, action: Tensor, amount: float, generator: Generator | None = None) -> Tensor:
        """One-hot vectors [..., A] of which a share of `amount` is replaced by uniformly random ones."""
        chance = self._one_hot(self.draw_noise(action.shape, action, generator))
        is_replaced = torch.rand(action.shape[:-1], generator=generator, device=action.device) < amount
        return torch.where(is_replaced.unsqueeze(-1), chance, action)

    def metrics(self) -> dict[str, Tensor]:
        """What to watch of the policy, by name."""
        return {"actor_top_probability": self.log_probs.exp().amax(-1).mean()}

    def _one_hot(self, scores: Tensor) -> Tensor:
        return functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)


Policy = Gaussian | Categorical


class Actor(nn.Module):
    """features [..., F] -> a policy over [..., A], nearly the same for all features at first.

    A Gaussian starts at mean 0 and std `start_std`, a Categorical with equal probabilities.
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
    """Chooses vectors in [-1, 1]^A."""

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
    """Chooses among A actions; ValueError where `action_noise` is no share of them."""

    kind = Categorical

    def __init__(self, feature_dim: int, action_dim: int, config: BehaviorConfig) -> None:
        super().__init__(feature_dim, action_dim, config)
        if not 0 <= config.action_noise <= 1:
            raise ValueError(
                f"behavior.action_noise: got {config.action_noise}, expected [0, 1], "
                "the share of random actions where actions are discrete"
            )

    def forward(self, features: Tensor) -> Categorical:
        probs = at_least_float32(self.net(features)).softmax(-1)
        return Categorical(((1 - _UNIFORM_SHARE) * probs + _UNIFORM_SHARE / probs.shape[-1]).log())


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

    def __init__(self, feature_dim: int, action_dim: int, config: BehaviorConfig, is_discrete: bool = False) -> None:
        super().__init__()
        actor = CategoricalActor if is_discrete else GaussianActor
        self.actor: Actor = actor(feature_dim, action_dim, config)
        self.critic = Critic(feature_dim, config)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.return_scale = ReturnScale(config.return_decay)
        self.decay = config.slow_critic_decay

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the slow copy by 1 - decay."""
        for slow, fast in zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.decay)
