"""The interface of priors p(z|g) over latents; `world_model.prior_config.kind` chooses one.

A prior maps a carry to parameters, which define the KL to a Gaussian posterior, samples and a density. `PlainPrior` is
the base class to start from; the mixture (generative_prior/) also has its own losses and monitors.
"""

from typing import Any, NamedTuple, Protocol

from torch import Generator, Tensor, nn

from world_model.distributions import standard_normal

Noise = tuple[Tensor, ...]  # the noise of one sample; every tensor begins with the latent's dimensions except D


class PriorParameters(Protocol):
    """A distribution over latents z [..., D] for every carry [..., H]."""

    def kl(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return KL(N(mean, diag std²) ‖ prior) in nats, or an upper bound, [...], for mean and std [..., D].

        The second value is the responsibilities [..., K] of a prior with components, else None.
        """
        ...

    def sample(self, noise: Noise, spread: float = 1.0) -> Tensor:
        """Return z [..., D] at `spread` times its std, a differentiable function of parameters and noise."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """Return ln p(z|g) in nats: z [..., D] -> [...]."""
        ...

    def detach(self) -> "PriorParameters":
        """Return the same distribution without gradients to its parameters."""
        ...


class PriorReport(NamedTuple):
    """A prior's contribution to the model's output, each by its public name."""

    parameters: dict[str, Tensor]  # parameters of the distribution, [B, T, ...]
    losses: dict[str, Tensor]  # the prior's own losses, [B, T] each, with the names in `loss_names`
    scalars: dict[str, Tensor]  # scalars to log at every update


class Prior(Protocol):
    """An nn.Module from carries [..., H] to distributions over latents."""

    loss_names: tuple[str, ...]

    def __call__(self, carry: Tensor) -> Any:
        """Return the `PriorParameters` of carries [..., H]."""
        ...

    def draw_noise(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Noise:
        """Draw noise for latents of shape [..., D], on the device of `like`."""
        ...

    def report(self, params: Any, responsibilities: Tensor | None) -> PriorReport:
        """Return the prior's parameters, losses and scalars for a chunk, with gradients."""
        ...

    def monitors(
        self,
        params: Any,
        mean: Tensor,
        std: Tensor,
        responsibilities: Tensor | None,
        generator: Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return health monitors of a chunk with posterior N(mean, diag std²) [B, T, D]: scalars, for logging only."""
        ...

    def after_update(
        self, mean: Tensor, carry: Tensor, responsibilities: Tensor | None, generator: Generator | None = None
    ) -> None:
        """Update state after an optimizer step, from the posterior's means [B, T, D] and carries [B, T, H]."""
        ...


class PlainPrior(nn.Module):
    """A prior without own losses, monitors and state; subclasses define `forward(carry)`."""

    loss_names: tuple[str, ...] = ()

    def draw_noise(self, shape: tuple[int, ...], like: Tensor, generator: Generator | None = None) -> Noise:
        """Return one standard normal tensor of the latents' shape [..., D]."""
        return (standard_normal(shape, like, generator),)

    def report(self, params: Any, responsibilities: Tensor | None) -> PriorReport:
        """Return an empty report."""
        return PriorReport({}, {}, {})

    def monitors(
        self,
        params: Any,
        mean: Tensor,
        std: Tensor,
        responsibilities: Tensor | None,
        generator: Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return no monitors."""
        return {}

    def after_update(
        self, mean: Tensor, carry: Tensor, responsibilities: Tensor | None, generator: Generator | None = None
    ) -> None:
        """Do nothing."""
