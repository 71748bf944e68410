"""What a prior p(z|g) over latents is to the model, whatever its family: `world_model.prior_config.kind` chooses one.

A prior turns a carry into parameters, and parameters know their KL to a Gaussian posterior, samples and a density.
`PlainPrior` is the base to start from; the mixture (generative_prior/) also has losses and monitors of its own.
"""

from typing import Any, NamedTuple, Protocol

from torch import Generator, Tensor, nn

from world_model.distributions import standard_normal

Noise = tuple[Tensor, ...]  # what one sample is made of; every tensor begins with the dimensions of the latent but D


class PriorParameters(Protocol):
    """A distribution over latents z [..., D] for every carry [..., H]."""

    def kl(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor | None]:
        """KL(N(mean, diag std²) ‖ prior) in nats or a bound from above, [...], of mean and std [..., D].

        Beside it the responsibilities [..., K] of a prior that has components, else None.
        """
        ...

    def sample(self, noise: Noise, spread: float = 1.0) -> Tensor:
        """A function of parameters and noise: z [..., D] at `spread` times its standard deviation, differentiable."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """ln p(z|g) in nats: z [..., D] -> [...]."""
        ...

    def detach(self) -> "PriorParameters":
        """The same distribution, whose parameters get no gradient."""
        ...


class PriorReport(NamedTuple):
    """What a prior adds to the model's output, each by its public name."""

    parameters: dict[str, Tensor]  # of the distribution, [B, T, ...]
    losses: dict[str, Tensor]  # its own, [B, T] each: those that its `loss_names` promise
    scalars: dict[str, Tensor]  # figures to log at every update


class Prior(Protocol):
    """An nn.Module from carries [..., H] to distributions over latents."""

    loss_names: tuple[str, ...]

    def __call__(self, carry: Tensor) -> Any:
        """The `PriorParameters` of carries [..., H]."""
        ...

    def draw_noise(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Noise:
        """Fresh noise for latents of shape [..., D], on the device of `like`."""
        ...

    def report(self, params: Any, responsibilities: Tensor | None) -> PriorReport:
        """What it has to say about a chunk, with gradient."""
        ...

    def monitors(
        self,
        params: Any,
        mean: Tensor,
        std: Tensor,
        responsibilities: Tensor | None,
        generator: Generator | None = None,
    ) -> dict[str, Tensor]:
        """Health monitors of a chunk with posterior N(mean, diag std²) [B, T, D]; scalars, for log time only."""
        ...

    def after_update(
        self, mean: Tensor, carry: Tensor, responsibilities: Tensor | None, generator: Generator | None = None
    ) -> None:
        """Called once behind every optimizer step with the posterior's means [B, T, D] and carries [B, T, H]."""
        ...


class PlainPrior(nn.Module):
    """A prior with nothing but its distribution: `forward(carry)` is left to the subclass."""

    loss_names: tuple[str, ...] = ()

    def draw_noise(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Noise:
        """One standard normal tensor of the latents' shape [..., D]."""
        return (standard_normal(shape, like, generator),)

    def report(self, params: Any, responsibilities: Tensor | None) -> PriorReport:
        """Nothing."""
        return PriorReport({}, {}, {})

    def monitors(
        self,
        params: Any,
        mean: Tensor,
        std: Tensor,
        responsibilities: Tensor | None,
        generator: Generator | None = None,
    ) -> dict[str, Tensor]:
        """None."""
        return {}

    def after_update(
        self, mean: Tensor, carry: Tensor, responsibilities: Tensor | None, generator: Generator | None = None
    ) -> None:
        """Nothing to do."""
