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
    params = prior(observed.states.prior_input)
    kl_z, bound, responsibilities = losses.latent_kl(mean, std, params, settings)
    report = prior.report(params, responsibilities)
    sample = params.sample(prior.draw_noise(mean.shape, mean, generator))
    return PriorOutput(params, sample, bound, responsibilities, report), {"kl_z": kl_z, **report.losses}


def overshoot_dreams(
    imagine: Callable[..., tuple[State, Tensor]],
    steps: int,
    inputs: Inputs,
    observed: Observed,
    generator: Generator | None,
) -> tuple[State, int]:
    """Dream `steps` rows each, back to back to the chunk's end, under the real actions: states [B, k, ...], steps.

    Inference corrects the carry at every frame, a dream never does: only here does the transition learn from its own
    errors. Latent overshooting (Hafner et al. 2019), of the whole dream and with rewards.
    """
    rows = inputs.is_first.shape[1]
    steps = max(1, min(steps, rows - 1))
    count = (rows - 1) // steps  # dreams of a chunk, all dreamt at once; none of a single row
    before = rows - count * steps  # rows that no dream foretells
    if count == 0:
        return observed.states.map(lambda x: x[:, :0]), steps
    actions = inputs.actions[:, before - 1 : -1].unflatten(1, (count, steps)).flatten(0, 1)
    following = iter(actions.unbind(1))
    start = observed.states.map(lambda x: x[:, before - 1 : -1 : steps].flatten(0, 1))
    dream, _ = imagine(start, lambda _: next(following), steps, generator)
    return dream.map(lambda x: x[:, 1:].unflatten(0, (-1, count)).flatten(1, 2)), steps


def overshoot_terms(
    prior: Prior,
    reward_head: RewardHead,
    free_nats: float,
    inputs: Inputs,
    observed: Observed,
    dreamed: State,
    steps: int,
) -> Losses:
    """Compute the losses of dreams of `steps` rows each, back to back [B, k, ...] to a chunk's end.

    They are their priors' KL and their rewards' NLL. The posteriors are targets without gradient. Rows after a reset
    within their dream, which it cannot foretell, do not count.
    """
    before = inputs.is_first.shape[1] - dreamed.latent.shape[1]
    mean, std = observed.mean[:, before:].detach(), observed.std[:, before:].detach()
    found = {"overshoot_kl": prior(dreamed.prior_input).kl(mean, std)[0].clamp_min(free_nats)}
    if inputs.rewards is not None:
        found["overshoot_nll"] = reward_head.nll(dreamed.features, inputs.rewards[:, before:])
    resets = inputs.is_first[:, before:].unflatten(1, (-1, steps)).cumsum(2).flatten(1)
    valid = functional.pad(resets == 0, (before, 0))
    return {name: losses.over_valid(functional.pad(loss, (before, 0)), valid) for name, loss in found.items()}


def attention_terms(
    schema: AttentionSchema | None,
    prior_maps: Callable[[State], Tensor],
    observed: Observed,
    is_first: Tensor,
    fraction: float,
    prior_share: float,
    generator: Generator | None,
) -> tuple[AttentionOutput | None, Tensor, Losses]:
    """Run pillar 4 on a random `fraction` of the sequences: its output for those, the decoder's maps, its losses.

    Of all sequences a random `prior_share` is decoded under the prior's maps [B, T, S, 8, 8], the others under the
    posterior's; one of the two shares is 1. Without a schema all maps are the prior's and there is no loss.
    """
    drawn = observed.drawn
    if schema is None:
        return None, prior_maps(drawn), {}
    if fraction < 1.0:
        chosen = losses.choose(len(is_first), fraction, generator, is_first.device)
        attention = schema(*(x[chosen] for x in (observed.features, drawn.carry, drawn.latent)))
        found = schema.losses(attention, is_first[chosen])
        spread = {name: losses.spread(loss, chosen, is_first.shape) for name, loss in found.items()}
        return attention._replace(sequences=chosen), prior_maps(drawn), spread
    attention = schema(observed.features, drawn.carry, drawn.latent)
    found, maps = schema.losses(attention, is_first), attention.prior_maps
    if prior_share < 1.0:
        draws = torch.rand(len(maps), generator=generator, device=maps.device)
        maps = torch.where((draws < prior_share)[:, None, None, None, None], maps, attention.maps)
    return attention, maps, found


def reconstruction_terms(
    decode: Callable[[State, Tensor], Tensor],
    observations: Tensor,
    states: State,
    maps: Tensor,
    fraction: float,
    resolutions: int,
    generator: Generator | None,
) -> tuple[Tensor, Losses]:
    """Return x̂ [B, T, 3, 64, 64] and its loss for a random `fraction` of the frames; the others are 0 in x̂.

    Without frames [B, T, 3, 0, 0] there is no loss.
    """
    if observations.shape[-1] == 0:
        return observations, {}
    if fraction == 1.0:
        frames = decode(states, maps)
        return frames, {"recon_loss": losses.reconstruction_error(observations, frames, resolutions)}
    shape, targets = observations.shape[:2], observations.flatten(0, 1)
    chosen = losses.choose_frames(shape, fraction, generator, observations.device)
    part = decode(states.map(lambda x: x.flatten(0, 1)[chosen]), maps.flatten(0, 1)[chosen])
    frames = torch.zeros_like(targets).index_copy(0, chosen, part.detach().to(targets.dtype))
    error = losses.reconstruction_error(targets[chosen], part, resolutions)
    loss = losses.spread(error, chosen, shape)
    return frames.unflatten(0, shape), {"recon_loss": loss}
