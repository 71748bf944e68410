"""The parts of a training forward pass: each part's output and its losses [B, T] by name."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from world_model import losses
from world_model.attention_schema import AttentionOutput, AttentionSchema
from world_model.config import PriorConfig
from world_model.frame_norm import FrameNorm
from world_model.heads import RewardHead
from world_model.output import PriorOutput
from world_model.perceiver_io import CausalPerceiver, PerceiverOutput
from world_model.prior import Prior
from world_model.state import Inputs, Observed, State

Losses = dict[str, Tensor]


def perceiver_terms(
    perceiver: CausalPerceiver,
    perceived: PerceiverOutput,
    frame_norm: FrameNorm,
    inputs: Inputs,
    fraction: float,
    generator: Generator | None,
) -> Losses:
    """Compute pillar 1's losses of tokenizer and next-token prediction on a `fraction` of the frames."""
    is_first = inputs.is_first
    shape = is_first.shape
    chosen = losses.choose_frames(shape, fraction, generator, is_first.device)
    drawn = frame_norm.restore(perceiver.reconstruct(perceived.values.flatten(0, 1)[chosen]))
    error = losses.squared_error(inputs.observations.flatten(0, 1)[chosen], drawn)
    actions = inputs.actions.flatten(0, 1)[chosen]
    logits = perceiver.next_token_logits(perceived.context.flatten(0, 1)[chosen], actions)
    return {
        "vq_recon": losses.spread(error, chosen, shape),
        "vq_commit": perceived.commitment,
        "next_token_ce": losses.next_token_loss(logits, perceived.indices, is_first, chosen),
    }


def prior_terms(
    prior: Prior, settings: PriorConfig, observed: Observed, generator: Generator | None
) -> tuple[PriorOutput, Losses]:
    """Compute pillar 2: the prior of every carry, a sample of it, and the posterior's KL to it."""
    mean, std = observed.mean, observed.std
    params = prior(observed.states.carry)
    kl_z, bound, responsibilities = losses.latent_kl(mean, std, params, settings)
    report = prior.report(params, responsibilities)
    sample = params.sample(prior.draw_noise(mean.shape, mean, generator))
    return PriorOutput(params, sample, bound, responsibilities, report), {"kl_z": kl_z, **report.losses}


def overshoot_terms(
    prior: Prior,
    reward_head: RewardHead,
    free_nats: float,
    steps: int,
    inputs: Inputs,
    observed: Observed,
    dreamed: State,
) -> Losses:
    """Compute the losses of dreams of `steps` rows each, back to back [B, k, ...] to a chunk's end.

    They are their priors' KL and their rewards' NLL. The posteriors are targets without gradient. Rows after a reset
    within their dream, which it cannot foretell, do not count.
    """
    before = inputs.is_first.shape[1] - dreamed.latent.shape[1]
    mean, std = observed.mean[:, before:].detach(), observed.std[:, before:].detach()
    found = {"overshoot_kl": prior(dreamed.carry).kl(mean, std)[0].clamp_min(free_nats)}
    if inputs.rewards is not None:
        found["overshoot_nll"] = reward_head.nll(dreamed.features, inputs.rewards[:, before:])
    resets = inputs.is_first[:, before:].unflatten(1, (-1, steps)).cumsum(2).flatten(1)
    valid = functional.pad(resets == 0, (before, 0))
    return {name: losses.over_valid(functional.pad(loss, (before, 0)), valid) for name, loss in found.items()}


def attention_terms(
    schema: AttentionSchema, observed: Observed, is_first: Tensor, fraction: float, generator: Generator | None
) -> tuple[AttentionOutput, Losses]:
    """Compute pillar 4 on a random `fraction` of the sequences: its output for those, and its losses."""
    chosen = losses.choose(len(is_first), fraction, generator, is_first.device)
    seen = (observed.features, observed.drawn.carry, observed.drawn.latent)
    attention = schema(*(x[chosen] for x in seen))
    found = schema.losses(attention, is_first[chosen])
    spread = {name: losses.spread(loss, chosen, is_first.shape) for name, loss in found.items()}
    return attention._replace(sequences=chosen), spread


def decoder_maps(attention: AttentionOutput, prior_share: float, generator: Generator | None) -> Tensor:
    """Return the decoder's maps [B, T, S, 8, 8]: prior ones for a random `prior_share` of sequences, else posterior."""
    if prior_share == 1.0:
        return attention.prior_maps
    draws = torch.rand(len(attention.maps), generator=generator, device=attention.maps.device)
    return torch.where((draws < prior_share)[:, None, None, None, None], attention.prior_maps, attention.maps)


def reconstruction_terms(
    decode: Callable[[State, Tensor], Tensor],
    observations: Tensor,
    states: State,
    maps: Tensor,
    fraction: float,
    generator: Generator | None,
) -> tuple[Tensor, Losses]:
    """Return x̂ [B, T, 3, 64, 64] and its loss for a random `fraction` of the frames; the others are 0 in x̂."""
    if fraction == 1.0:
        frames = decode(states, maps)
        return frames, {"recon_loss": losses.squared_error(observations, frames)}
    shape, targets = observations.shape[:2], observations.flatten(0, 1)
    chosen = losses.choose_frames(shape, fraction, generator, observations.device)
    part = decode(states.map(lambda x: x.flatten(0, 1)[chosen]), maps.flatten(0, 1)[chosen])
    frames = torch.zeros_like(targets).index_copy(0, chosen, part.detach().to(targets.dtype))
    loss = losses.spread(losses.squared_error(targets[chosen], part), chosen, shape)
    return frames.unflatten(0, shape), {"recon_loss": loss}
