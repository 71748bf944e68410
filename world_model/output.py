"""The output of a forward pass over a chunk: inferred states, distributions, predictions and losses."""

from typing import Any, NamedTuple

from torch import Tensor

from world_model.attention_schema import AttentionOutput
from world_model.prior import PriorReport
from world_model.state import Inputs, Observed, State


class PriorOutput(NamedTuple):
    """Pillar 2 on a chunk: p(z_t|g_t) of every carry, a sample of it, and the posterior's KL to it."""

    params: Any  # the prior's own PriorParameters
    sample: Tensor  # [B, T, D]
    bound: Tensor  # [B, T], KL(q‖p) in nats or an upper bound, before balancing and free nats
    responsibilities: Tensor | None  # [B, T, K] for a prior with components
    report: PriorReport  # parameters by their public names, the prior's own losses and scalars


class Rollout(NamedTuple):
    """What the model predicts for N sequences of H actions; index t is what action t leads to."""

    states: State  # [N, H, ...]
    rewards: Tensor  # [N, H], expected
    continues: Tensor  # [N, H], probabilities that the episode goes on
    values: Tensor | None  # [N, H], the critic's, where one was given
    frames: Tensor | None  # [N, H, 3, 64, 64] in [0, 1] but for the decoder's errors, where they were asked for


class ModelOutput(NamedTuple):
    """All results of the model on a chunk."""

    inputs: Inputs
    observed: Observed  # pillars 1 and 3 and the posterior: context, states, next carries, mean and std of q
    prior: PriorOutput  # pillar 2
    attention: AttentionOutput | None  # pillar 4; None if it is off
    decoder_maps: Tensor  # [B, T, S, 8, 8], the maps that the decoder saw
    reconstructions: Tensor  # [B, T, 3, 64, 64]; zeros at frames that were not decoded
    predicted_context: Tensor | None  # ĉ [B, T, C]; None without a context
    losses: dict[str, Tensor]  # [B, T] each: all trained losses by name
    scalars: dict[str, Tensor]  # further scalars to log

    def as_dict(self) -> dict[str, Any]:
        """Return the flat view of docs/world_model.md, public name -> tensor, without those of parts that are off."""
        observed, prior = self.observed, self.prior
        view: dict[str, Any] = {
            "observations": self.inputs.observations,
            "is_first": self.inputs.is_first,
            "states": observed.states,
            "carry": observed.states.carry,
            "h_t": observed.next_carry,
            "z_mean": observed.mean,
            "z_logvar": 2 * observed.std.log(),
            "z_posterior": observed.drawn.latent,
            "z_prior": prior.sample,
            "kl_bound": prior.bound,
            "decoder_maps": self.decoder_maps,
            "reconstructions": self.reconstructions,
        }
        if prior.responsibilities is not None:
            view["responsibilities"] = prior.responsibilities
        if observed.perceived is not None:
            view |= {"context": observed.context, "vq_indices": observed.perceived.indices}
        if self.predicted_context is not None:
            view["context_pred"] = self.predicted_context
        if self.attention is not None:
            view |= {
                "attention_maps": self.attention.maps,
                "prior_attention_maps": self.attention.prior_maps,
                "slot_responsibilities": self.attention.responsibilities,
                "attention_precision": self.attention.log_precision.exp(),
                "predicted_movement": self.attention.predicted_movement,
            }
        return view | prior.report.parameters | self.scalars | self.losses
