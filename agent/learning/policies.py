"""Policies: distributions over actions in [-1, 1]^A, or over the one-hot vectors of A choices."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from world_model.distributions import standard_normal


class Gaussian(NamedTuple):
    """A policy over actions in [-1, 1]^A, with mean in (-1, 1) and std in [min_std, 1], both [..., A]."""

    mean: Tensor
    std: Tensor

    @property
    def mode(self) -> Tensor:
        """The most likely action, [..., A]."""
        return self.mean

    @staticmethod
    def draw_noise(shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw the noise of samples of a shape [..., A], on the device of `like`."""
        return standard_normal(shape, like, generator)

    def sample(self, generator: Generator | None = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a raw sample, and the same clamped to [-1, 1] with a straight-through gradient, both [..., A]."""
        if noise is None:
            noise = self.draw_noise(self.mean.shape, self.mean, generator)
        raw = self.mean + self.std * noise
        return raw, raw + (raw.clamp(-1, 1) - raw).detach()

    def entropy(self) -> Tensor:
        """Return the Gaussian's entropy plus ln(1 - mean²), a correction for the bounds; nats, summed over A: [...].

        Without the correction nothing restrains the mean: the noise of an untrained model, normalised by Adam, drives
        it into the bounds before there is anything to learn from.
        """
        gaussian = self.std.log() + 0.5 * math.log(2 * math.pi * math.e)
        return (gaussian + torch.log1p(-(1 - 1e-6) * self.mean.square())).sum(-1)

    def log_prob(self, raw: Tensor) -> Tensor:
        """Return the log density of raw samples [..., A] -> [...]."""
        scaled = (raw - self.mean) / self.std
        return (-0.5 * scaled.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def explore(self, action: Tensor, amount: float, generator: Generator | None = None) -> Tensor:
        """Return the actions [..., A] plus Gaussian noise of std `amount`, clamped to [-1, 1]."""
        return (action + amount * standard_normal(action.shape, action, generator)).clamp(-1, 1)

    def metrics(self) -> dict[str, Tensor]:
        """Return metrics of the policy by name."""
        return {"actor_std": self.std.mean(), "action_magnitude": self.mean.abs().mean()}


class Categorical(NamedTuple):
    """A policy over the one-hot vectors of A discrete actions, with log-probabilities [..., A].

    The gradient of a sample is that of the probabilities (straight-through, as in DreamerV3).
    """

    log_probs: Tensor

    @property
    def mode(self) -> Tensor:
        """The most likely action, [..., A]."""
        return self._one_hot(self.log_probs)

    @staticmethod
    def draw_noise(shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw the noise of samples of a shape [..., A], on the device of `like`."""
        exponential = torch.empty(shape, device=like.device, dtype=like.dtype).exponential_(generator=generator)
        return -exponential.log()  # Gumbel noise: the argmax of log-probabilities plus noise is a sample

    def sample(self, generator: Generator | None = None, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return a sample, and the same with a straight-through gradient, both one-hot vectors [..., A]."""
        if noise is None:
            noise = self.draw_noise(self.log_probs.shape, self.log_probs, generator)
        chosen = self._one_hot(self.log_probs.detach() + noise)
        probs = self.log_probs.exp()
        return chosen, chosen + (probs - probs.detach())

    def entropy(self) -> Tensor:
        """Return the entropy in nats: [...]."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def log_prob(self, raw: Tensor) -> Tensor:
        """Return the log-probability of one-hot vectors [..., A] -> [...]."""
        return (raw * self.log_probs).sum(-1)

    def explore(self, action: Tensor, amount: float, generator: Generator | None = None) -> Tensor:
        """Return the one-hot vectors [..., A], a fraction `amount` of them replaced by uniformly random ones."""
        chance = self._one_hot(self.draw_noise(action.shape, action, generator))
        is_replaced = torch.rand(action.shape[:-1], generator=generator, device=action.device) < amount
        return torch.where(is_replaced.unsqueeze(-1), chance, action)

    def metrics(self) -> dict[str, Tensor]:
        """Return metrics of the policy by name."""
        return {"actor_top_probability": self.log_probs.exp().amax(-1).mean()}

    def _one_hot(self, scores: Tensor) -> Tensor:
        return functional.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores.dtype)


Policy = Gaussian | Categorical
