"""The parameters of state-conditioned Gaussian mixtures; samples and the mode as pure functions of them and noise."""

from typing import NamedTuple

import torch
from torch import Tensor

from world_model.distributions import standard_normal
from world_model.generative_prior.mixture_kl import mixture_kl_and_responsibilities, mixture_log_prob


class PriorParams(NamedTuple):
    """A mixture per state: sticks log_a, log_b [..., K-1], log_weights [..., K], means and stds [..., K, D].

    Its methods are those of `world_model.prior.PriorParameters`.
    """

    log_a: Tensor
    log_b: Tensor
    log_weights: Tensor
    means: Tensor
    stds: Tensor

    def kl(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bound J on KL(N(mean, diag std²) ‖ mixture), [...], and the responsibilities, [..., K]."""
        return mixture_kl_and_responsibilities(mean, std, self.log_weights, self.means, self.stds)

    def sample(self, noise: tuple[Tensor, ...], spread: float = 1.0) -> Tensor:
        """Return `sample_mixture` at `spread` times every standard deviation; straight-through where gradients are on.

        noise as from `draw_noise`.
        """
        narrowed = self._replace(stds=spread * self.stds)
        return sample_mixture(narrowed, straight_through=torch.is_grad_enabled(), noise=MixtureNoise(*noise))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return ln p(z | carry) in nats: z [..., D] -> [...]."""
        return mixture_log_prob(z, self.log_weights, self.means, self.stds)

    def detach(self) -> "PriorParams":
        """Return the same mixture without gradient."""
        return PriorParams(*(parameter.detach() for parameter in self))


class MixtureNoise(NamedTuple):
    """The randomness of one mixture sample: uniform [...] in [0,1) picks the component, normal [..., D] spreads it."""

    uniform: Tensor
    normal: Tensor


def draw_noise(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None = None) -> MixtureNoise:
    """Return fresh noise for samples of shape [..., D], on the device of `like`, where the generator lives too."""
    uniform = torch.rand(shape[:-1], generator=generator, device=like.device, dtype=like.dtype)
    return MixtureNoise(uniform, standard_normal(shape, like, generator))


def sample_mixture(
    params: PriorParams,
    generator: torch.Generator | None = None,
    straight_through: bool = False,
    noise: MixtureNoise | None = None,
) -> Tensor:
    """Return z = μ_k + σ_k ε with k ~ Cat(w), [..., D]; components are never averaged.

    straight_through: the same value, with the gradient of y = onehot(k) + w - sg(w), z = Σ_k y_k (μ_k + σ_k ε), so that
    it reaches the weights too. Given `noise`, z is a function of params and noise alone.
    """
    if noise is None:
        noise = draw_noise((*params.means.shape[:-2], params.means.shape[-1]), params.means, generator)
    uniform, normal = noise
    weights = params.log_weights.exp()
    held = weights.detach().cumsum(-1)
    index = (held[..., :-1] <= uniform.unsqueeze(-1) * held[..., -1:]).sum(-1)  # inverse CDF, [..., K] -> [...]
    z = _component(params.means, index) + _component(params.stds, index) * normal
    if not straight_through:
        return z
    # (w - sg w) is 0: it adds the weights' gradient and leaves the value as it is, bit for bit.
    candidates = (params.means + params.stds * normal.unsqueeze(-2)).detach()
    return z + ((weights - weights.detach()).unsqueeze(-1) * candidates).sum(-2)  # [..., K, D] -> [..., D]


def mixture_mode(params: PriorParams) -> Tensor:
    """Return the mean of the heaviest component, [..., D]; never an average, which may lie between all modes."""
    return _component(params.means, params.log_weights.argmax(-1))


def _component(values: Tensor, index: Tensor) -> Tensor:
    """Return values[..., index, :]: [..., K, D], [...] -> [..., D]."""
    index = index.unsqueeze(-1).unsqueeze(-1).expand(*index.shape, 1, values.shape[-1])
    return values.gather(-2, index).squeeze(-2)
