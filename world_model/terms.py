"""What a training forward reports, part by part: outputs and per-step losses [B, T] by their public names."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from world_model import losses
from world_model.attention_schema import AttentionOutput, AttentionSchema
from world_model.config import PriorConfig
from world_model.frame_norm import FrameNorm
from world_model.generative_prior import DPGMMPrior
from world_model.perceiver_io import CausalPerceiver, PerceiverOutput
from world_model.state import Observed, State

Terms = dict[str, Tensor]


def state_terms(seen: Observed) -> Terms:
    """Carries and latents of the pass."""
    return {
        "carry": seen.states.carry,
        "h_t": seen.next_carry,
        "z_mean": seen.mean,
        "z_logvar": 2 * seen.std.log(),
        "z_posterior": seen.drawn.latent,
    }


def perceiver_terms(
    perceiver: CausalPerceiver,
    perceived: PerceiverOutput,
    frame_norm: FrameNorm,
    observations: Tensor,
    actions: Tensor,
    is_first: Tensor,
    fraction: float,
    generator: Generator | None,
) -> Terms:
    """Pillar 1: tokens, context, and what tokenizer and next-token prediction lose on a `fraction` of the frames."""
    shape = is_first.shape
    chosen = losses.choose_frames(shape, fraction, generator, is_first.device)
    drawn = frame_norm.restore(perceiver.reconstruct(perceived.values.flatten(0, 1)[chosen]))
    error = losses.squared_error(observations.flatten(0, 1)[chosen], drawn)
    logits = perceiver.next_token_logits(perceived.context.flatten(0, 1)[chosen], actions.flatten(0, 1)[chosen])
    return {
        "context": perceived.context,
        "vq_indices": perceived.indices,
        "vq_perplexity": perceiver.perplexity(perceived.indices),
        "vq_recon": losses.spread(error, chosen, shape),
        "vq_commit": perceived.commitment,
        "next_token_ce": losses.next_token_loss(logits, perceived.indices, is_first, chosen),
    }


def prior_terms(prior: DPGMMPrior, settings: PriorConfig, seen: Observed, generator: Generator | None) -> Terms:
    """Pillar 2: the mixture of every carry, a sample of it, and the posterior's distance from it."""
    params = prior(seen.states.carry)
    concentration = prior.infer_concentration(params)
    kl_z, bound, responsibilities = losses.latent_kl(seen.mean, seen.std, params, settings)
    usage_entropy = losses.usage_entropy(responsibilities)
    return {
        "z_prior": prior.sample(params, generator),
        "pi": params.log_weights.exp(),
        "mu_k": params.means,
        "sigma_k": params.stds,
        "log_a": params.log_a,
        "log_b": params.log_b,
        "alpha": concentration.shape / concentration.rate,
        "responsibilities": responsibilities,
        "effective_components": usage_entropy.exp(),
        "kl_bound": bound,
        "kl_z": kl_z,
        "hierarchical_kl": concentration.kl,
        "cluster_entropy": usage_entropy.expand_as(kl_z),
    }


def attention_terms(schema: AttentionSchema, attention: AttentionOutput, is_first: Tensor) -> Terms:
    """Pillar 4: maps, their prior, the foreseen movement with its precision, and the losses."""
    return {
        "attention_maps": attention.maps,
        "prior_attention_maps": attention.prior_maps,
        "slot_responsibilities": attention.responsibilities,
        "attention_precision": attention.log_precision.exp(),
        "predicted_movement": attention.predicted_movement,
        **schema.losses(attention, is_first),
    }


def decoder_maps(attention: AttentionOutput, prior_share: float, generator: Generator | None) -> Tensor:
    """What the decoder sees [B, T, S, 8, 8]: prior maps for a random `prior_share` of the sequences, else posterior."""
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
) -> Terms:
    """x̂ [B, T, 3, 64, 64] and its loss [B, T], for a random `fraction` of the frames; the others stay 0 in x̂."""
    if fraction == 1.0:
        frames = decode(states, maps)
        return {"reconstructions": frames, "recon_loss": losses.squared_error(observations, frames)}
    shape, targets = observations.shape[:2], observations.flatten(0, 1)
    chosen = losses.choose_frames(shape, fraction, generator, observations.device)
    part = decode(states.map(lambda x: x.flatten(0, 1)[chosen]), maps.flatten(0, 1)[chosen])
    frames = torch.zeros_like(targets).index_copy(0, chosen, part.detach().to(targets.dtype))
    loss = losses.spread(losses.squared_error(targets[chosen], part), chosen, shape)
    return {"reconstructions": frames.unflatten(0, shape), "recon_loss": loss}
