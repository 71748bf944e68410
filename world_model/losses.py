"""Per-step losses [B, T] in nats, each trained through its plain mean over [B, T].

A loss that exists only at some entries is zero elsewhere and scaled up, so that its mean is the mean over them.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional

from world_model import ranks
from world_model.config import PriorConfig
from world_model.distributions import at_least_float32, full_precision
from world_model.prior import PriorParameters


def over_valid(loss: Tensor, valid: Tensor) -> Tensor:
    """Zero out invalid entries and rescale: mean(result) = mean of `loss` over `valid` (0 where nothing is valid)."""
    valid = valid.to(loss.dtype)
    entries = valid.numel() * ranks.rank_count()
    return loss * valid * (entries / ranks.total(valid.sum()).clamp_min(1.0))


def choose_frames(shape: torch.Size, fraction: float, generator: Generator | None, device: torch.device) -> Tensor:
    """Return a random `fraction` of the B * T frame indices, at least one, without repetition: [n]; all if it is 1."""
    return choose(shape[0] * shape[1], fraction, generator, device)


def choose(count: int, fraction: float, generator: Generator | None, device: torch.device) -> Tensor:
    """Return a random `fraction` of `count` indices, at least one, without repetition: [n]; all in order if it is 1."""
    if fraction == 1.0:
        return torch.arange(count, device=device)
    return torch.randperm(count, generator=generator, device=device)[: max(1, round(fraction * count))]


def spread(loss: Tensor, chosen: Tensor, shape: torch.Size) -> Tensor:
    """Return losses of the chosen frames [n], or sequences [n, T], as [B, T]: zero elsewhere, of the same mean."""
    rows = shape.numel() // loss[0].numel()
    whole = loss.new_zeros(rows, *loss.shape[1:]).index_copy(0, chosen, loss)
    return (whole * (rows / len(chosen))).view(shape)


def squared_error(target: Tensor, prediction: Tensor) -> Tensor:
    """Return the squared error summed over a frame: [..., C, H, W] x2 -> [...]; a Gaussian NLL of variance ½."""
    return at_least_float32(target - prediction).square().sum((-3, -2, -1))


def reconstruction_error(target: Tensor, prediction: Tensor, resolutions: int) -> Tensor:
    """Return the mean of `squared_error` over resolutions, each half as fine as the last: [..., C, H, W] x2 -> [...].

    Pooled pixels count with their area, so that an error of a whole region weighs the same at every resolution, and
    one of a single pixel less and less.
    """
    found = squared_error(target, prediction)
    lead, difference = target.shape[:-3], (target - prediction).flatten(0, -4)
    for halvings in range(1, resolutions):
        difference = functional.avg_pool2d(difference, 2)
        found = found + 4**halvings * squared_error(difference, torch.zeros_like(difference)).view(lead)
    return found / resolutions


def latent_kl(
    mean: Tensor, std: Tensor, prior: PriorParameters, settings: PriorConfig
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the trained KL(q ‖ prior): (loss [B, T], J [B, T], the prior's responsibilities or None).

    J is the prior's own `kl`, exact or a bound. With `kl_balance` the loss is
    max(free, J(sg q, p)) + scale * max(free', J(q, sg p)), each entry clipped separately (DreamerV3).
    """
    free_nats = settings.free_nats
    if not settings.kl_balance:
        bound, responsibilities = prior.kl(mean, std)
        return bound.clamp_min(free_nats) if free_nats > 0 else bound, bound, responsibilities
    dynamics, responsibilities = prior.kl(mean.detach(), std.detach())
    representation, _ = prior.detach().kl(mean, std)
    representation = representation.clamp_min(settings.representation_free_nats)
    loss = dynamics.clamp_min(free_nats) + settings.representation_scale * representation
    return loss, dynamics, responsibilities


def next_token_loss(logits: Tensor, indices: Tensor, is_first: Tensor, chosen: Tensor) -> Tensor:
    """Return the cross entropy of frame t+1's token ids under logits from time t, averaged over the cells.

    logits [n, 64, codes] of the chosen [n] of B * T frames, indices [B, T, 8, 8], is_first [B, T] -> [B, T]. Pairs
    across a reset are skipped, and so is the last index, whose successor is not in the chunk.
    """
    following = indices.flatten(2).roll(-1, 1).flatten(0, 1)[chosen]  # [n, 64]; the last index wraps around
    loss = functional.cross_entropy(logits.flatten(0, 1).float(), following.flatten(), reduction="none")
    loss = spread(loss.view(following.shape).mean(-1), chosen, is_first.shape)  # [B, T]
    return over_valid(loss, functional.pad(~is_first[:, 1:], (0, 1)))


def context_nll(context: Tensor, predicted: Tensor) -> Tensor:
    """Return ½ ‖ĉ - sg(c)‖² over the context's width: [B, T, C] x2 -> [B, T]."""
    return 0.5 * (predicted - context.detach()).square().float().sum(-1)


@full_precision
def gram_loss(features: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the cells' cosine matrices: [N, C, h, w] x2 -> [N]; no teacher gradient."""
    cells = functional.normalize(features.flatten(2), dim=1)  # [N, C, 64]
    fixed = functional.normalize(teacher.detach().flatten(2), dim=1)
    return (cells.mT @ cells - fixed.mT @ fixed).square().mean((-2, -1))


def continue_nll(logits: Tensor, is_terminal: Tensor) -> Tensor:
    """Return the Bernoulli negative log-likelihood of n_t = 1 - is_terminal_t: [B, T] x2 -> [B, T]."""
    return functional.binary_cross_entropy_with_logits(logits.float(), 1.0 - is_terminal.float(), reduction="none")
