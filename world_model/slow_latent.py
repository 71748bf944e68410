"""A slow latent above z: drawn every k rows from what the carries had in common, with a mixture prior of its own.

u is read by the prior over z, by the heads and by the actor, and by neither the posterior of z nor the transition. So a
chunk's slow latents are computed at once, after the recurrence, and a dream ticks the slow clock by itself.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from world_model import losses
from world_model.config import PriorConfig, SlowConfig
from world_model.distributions import at_least_float32
from world_model.layers import bounded_std, head
from world_model.prior import Noise, Prior

STD_RANGE = (0.1, 2.0)


class SlowOutput(NamedTuple):
    """The slow latents of a chunk; mean, std and source also at rows without a tick, where nothing is drawn."""

    latent: Tensor  # u_t [B, T, U], held between ticks
    age: Tensor  # rows since it was drawn, [B, T, 1]
    mean: Tensor  # of q(u|·) [B, T, U]
    std: Tensor  # its standard deviation
    source: Tensor  # what the slow prior reads, [B, T, U + H]: the u before and the carry
    is_tick: Tensor  # bool [B, T]
    memory: tuple[Tensor, ...]  # after the chunk, as in `Memory.slow`


class SlowLatent(nn.Module):
    r"""A clock that ticks at an episode's first row and every `every` rows after it; in between u is held.

    .. math::
        q(u_j \mid \bar g_j, g_t), \qquad p(u_j \mid u_{j-1}, g_t) = \text{a mixture as in pillar 2}

    at the rows t of its ticks; :math:`\bar g_j` is the mean of the carries since the tick before, which alone tells the
    posterior more than the prior knows. Clockwork VAEs (Saxena et al. 2021, arXiv 2102.09532) have such levels.
    """

    def __init__(self, hidden_dim: int, every: int, config: SlowConfig, prior: Prior) -> None:
        super().__init__()
        self.every, self.dim = every, config.latent_dim
        self.kl_settings = PriorConfig(kl_balance=True, free_nats=config.free_nats, representation_scale=0.5)
        self.posterior = head(2 * hidden_dim, config.hidden_dim, 1, 2 * self.dim)
        self.prior = prior
        noise = prior.draw_noise((1, self.dim), torch.zeros(()), Generator())
        self.num_noises = len(noise)  # tensors of the noise of one sample

    def initial(self, carry: Tensor) -> tuple[Tensor, ...]:
        """Return the memory before an episode, for carries [N, H]."""
        return carry.new_zeros(len(carry), self.dim), carry.new_zeros(len(carry), 1), torch.zeros_like(carry)

    def forward(self, carry: Tensor, is_first: Tensor, noise: Tensor, before: tuple[Tensor, ...]) -> SlowOutput:
        """Infer a chunk: carry [B, T, H], is_first bool [B, T], noise [B, T, U], the memory before it (() at a reset).

        A chunk without memory begins with a tick, as after a reset.
        """
        steps = carry.shape[1]
        latent, age, total = before or self.initial(carry[:, 0])
        rows = torch.arange(1, steps + 1, device=carry.device)
        reset = torch.where(is_first, rows, 0).cummax(1).values  # row of the last reset, counted from 1; 0: none
        place = rows - reset + torch.where(reset == 0, age.long(), 0)  # [B, T], rows since a tick before the chunk
        is_tick = place % self.every == 0
        # Rows share a stretch if no tick lies between them: a tick ends its stretch, and a reset is one of its own.
        stretch = is_tick.cumsum(1) - is_tick.long() + is_first.cumsum(1)
        same = (stretch[:, :, None] == stretch[:, None]).tril().to(carry.dtype)  # [B, T, T]
        is_continued = ((stretch == 0)[..., None]).to(carry.dtype)
        count = same.sum(-1, keepdim=True) + is_continued * age[:, None]
        total_now = same @ carry + is_continued * total[:, None]
        mean, std = self._posterior(total_now / count, carry)
        drawn = mean + std * noise
        last = torch.where(is_tick, rows, 0).cummax(1).values[..., None]  # row of the last tick, counted from 1
        known = torch.cat([latent[:, None].to(drawn.dtype), drawn], 1)
        held = known.gather(1, last.expand(-1, -1, self.dim))
        previous = torch.cat([latent[:, None].to(drawn.dtype), held[:, :-1]], 1)
        previous = torch.where(is_first[..., None], 0.0, previous)
        age_now = (place % self.every)[..., None].to(carry.dtype)
        left = torch.where(is_tick[..., None], 0.0, total_now)
        memory = (held[:, -1], age_now[:, -1], left[:, -1])
        source = torch.cat([previous, carry], -1)
        return SlowOutput(held, age_now, mean, std, source, is_tick, memory)

    def observe(self, carry: Tensor, is_first: Tensor, memory: tuple[Tensor, ...], noise: Tensor) -> tuple[Tensor, ...]:
        """Take one row of acting: carry [N, H], is_first bool [N], noise [N, U] -> the next memory."""
        output = self(carry[:, None], is_first[:, None], noise[:, None], memory)
        return output.memory

    def tick(self, slow: tuple[Tensor, ...], carry: Tensor, noise: Noise) -> tuple[Tensor, ...]:
        """Take one row of a dream: u and age before it, and its carry [N, H] -> u [N, U] and age [N, 1]."""
        latent, age = slow
        drawn = self.prior(torch.cat([latent, carry], -1)).sample(noise)
        age = age + 1
        is_tick = age >= self.every
        return torch.where(is_tick, drawn, latent), torch.where(is_tick, 0.0, age)

    def loss(self, output: SlowOutput) -> Tensor:
        """Return the balanced KL at the ticks and 0 at other rows, [B, T] in nats."""
        loss, _, _ = losses.latent_kl(output.mean, output.std, self.prior(output.source), self.kl_settings)
        return torch.where(output.is_tick, loss, 0.0)

    def after_update(self, output: SlowOutput, generator: Generator | None = None) -> None:
        """Track the use of the components, as in pillar 2; dead ones move."""
        shares = self.prior(output.source).kl(output.mean, output.std)[1]
        self.prior.after_update(output.mean, output.source, shares, generator)

    def _posterior(self, average: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw_std = at_least_float32(self.posterior(torch.cat([average, carry], -1))).chunk(2, -1)
        return mean, bounded_std(raw_std, *STD_RANGE)
