"""Health monitors: scalars that say whether each pillar does its part. For log time only, never part of a loss.

Measured on the output of a training forward, before its optimizer step, and without a wait for the device. The
monitors of a pillar that is off are absent; one that nothing in the chunk speaks of is not finite. Names, meanings and
expected ranges: docs/monitors.md.
"""

import torch
from torch import Generator, Tensor
from torch.nn import functional

from world_model.attention_schema import AttentionOutput, movement_loss
from world_model.losses import context_nll
from world_model.model import DPGMMVariationalRecurrentAutoencoder
from world_model.output import ModelOutput
from world_model.state import Observed, State

HORIZONS = (1, 5, 15)  # steps of a dream after which it is compared with what happened
TOP_SHARE = 0.1  # of the rewards, by size, that the reward head is judged on
STILL = 1e-4  # Huber loss of half a pixel: centres that move less are still

Monitors = dict[str, Tensor]


@torch.no_grad()
def measure(
    model: DPGMMVariationalRecurrentAutoencoder,
    output: ModelOutput,
    generator: Generator | None = None,
) -> Monitors:
    """All monitors of a chunk, scalars on its device: of an output under the weights that the model still has."""
    inputs, observed, prior = output.inputs, output.observed, output.prior
    found = model.prior.monitors(prior.params, observed.mean, observed.std, prior.responsibilities, generator)
    if model.perceiver is not None:
        quantizer = model.perceiver.tokenizer.quantizer
        is_dead = quantizer.counts < quantizer.dead_share * quantizer.counts.mean()
        found |= {"vq_ema_perplexity": quantizer.ema_perplexity(), "vq_dead_share": is_dead.float().mean()}
    if output.predicted_context is not None:
        found["context_ratio"] = context_ratio(observed.context, output.predicted_context)
    if output.attention is not None:
        found |= attention_monitors(output.attention, inputs.is_first)
    if inputs.rewards is not None:
        predicted = model.reward_head.predict(observed.states.features)
        found |= reward_monitors(predicted, inputs.rewards)
    return found | imagination_gap(model, observed, inputs.is_first, inputs.actions, inputs.rewards, generator)


def context_ratio(context: Tensor, predicted: Tensor) -> Tensor:
    """Error of ĉ over the error of the chunk's mean context: [B, T, C] x2 -> []; 1 says that ĉ knows nothing."""
    return context_nll(context, predicted).mean() / context_nll(context, context.mean((0, 1))).mean()


def attention_monitors(attention: AttentionOutput, is_first: Tensor) -> Monitors:
    """Pillar 4: the largest slot's share of the cells, and the error of the foreseen movement over that of "still"."""
    maps, foreseen = attention.maps, attention.predicted_movement
    mass = attention.responsibilities.mean((-2, -1))  # [B, T, S]
    error, error_of_still = (
        movement_loss(maps, mass, movement, None, is_first).mean()
        for movement in (foreseen, torch.zeros_like(foreseen))
    )
    return {
        "attention_mass_max": mass.mean((0, 1)).max(),
        "attention_movement_ratio": (error + STILL) / (error_of_still + STILL),
    }


def reward_monitors(predicted: Tensor, rewards: Tensor) -> Monitors:
    """Mean absolute error of rewards [B, T], and that on the tenth with the largest |r| as a share of their mean |r|.

    The latter is not finite where no reward was paid.
    """
    error, size = (predicted - rewards).abs().flatten(), rewards.abs().flatten()
    top = size.topk(max(1, round(TOP_SHARE * len(size)))).indices
    return {"reward_error": error.mean(), "reward_error_top": error[top].sum() / size[top].sum()}


def imagination_gap(
    model: DPGMMVariationalRecurrentAutoencoder,
    observed: Observed,
    is_first: Tensor,
    actions: Tensor,
    rewards: Tensor | None = None,
    generator: Generator | None = None,
) -> Monitors:
    """How far a dream under the logged actions is from what happened, k steps after its start, for k in HORIZONS.

    Every posterior state starts one dream; those that cross a reset within k steps do not count for k.
    `imag_gap_carry/k`: mean |g_dream - g| over mean |g - mean g|; 0 at k = 1, where nothing has been drawn yet, and
    about √2 where the dream is a state of its own. `imag_gap_kl/k`: KL(posterior, prior of the dreamed carry),
    or the prior's bound on it; at k = 1 that of training. `imag_gap_reward/k`: mean absolute error of the reward.
    """
    states, mean, std = observed.states, observed.mean, observed.std
    batch, steps = is_first.shape
    length = min(HORIZONS[-1], steps - 1)
    if length < 1:
        return {}
    logged = functional.pad(actions, (0, 0, 0, length))  # [B, T + length, A]; what dreams beyond T do does not count
    step = iter(range(length))
    dream, _ = model.imagine(
        states.map(lambda x: x.flatten(0, 1)),
        lambda _: logged[:, (i := next(step)) : i + steps].flatten(0, 1),
        length,
        generator,
    )
    carry, episode = states.carry, is_first.cumsum(1)
    spread = (carry - carry.mean((0, 1))).norm(dim=-1).mean()
    found: Monitors = {}
    for k in (k for k in HORIZONS if k <= length):
        dreamed = State(*(x[:, k].unflatten(0, (batch, steps))[:, : steps - k] for x in dream))
        is_same = episode[:, k:] == episode[:, : steps - k]  # [B, T - k]
        gaps = {
            "carry": (dreamed.carry - carry[:, k:]).norm(dim=-1) / spread,
            "kl": model.prior(dreamed.carry).kl(mean[:, k:], std[:, k:])[0],
        }
        if rewards is not None:
            gaps["reward"] = (model.reward_head.predict(dreamed.features) - rewards[:, k:]).abs()
        found |= {f"imag_gap_{name}/{k}": _mean(gap, is_same) for name, gap in gaps.items()}
    return found


def _mean(x: Tensor, where: Tensor) -> Tensor:
    """Mean of the entries of x that `where` marks; NaN where there are none."""
    return torch.where(where, x, 0.0).sum() / where.sum()
