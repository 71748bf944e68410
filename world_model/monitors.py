"""Health monitors: scalars that show whether each pillar works. For logging only, never part of a loss.

They are measured on the output of a training forward, before its optimizer step, and without synchronising with the
device. Monitors of a pillar that is off are absent; one that the chunk says nothing about is not finite. Names,
meanings and expected ranges: docs/monitors.md.
"""

from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional

from world_model.attention_schema import AttentionOutput, movement_loss
from world_model.distributions import symlog
from world_model.losses import context_nll
from world_model.model import DPGMMVariationalRecurrentAutoencoder
from world_model.output import ModelOutput
from world_model.state import Observed

HORIZONS = (1, 5, 15)  # steps of a dream after which it is compared with what happened
TOP_SHARE = 0.1  # share of the largest rewards that judge the reward head
STILL = 1e-4  # Huber loss of half a pixel: centres that move less count as still

Monitors = dict[str, Tensor]


@torch.no_grad()
def measure(
    model: DPGMMVariationalRecurrentAutoencoder,
    output: ModelOutput,
    generator: Generator | None = None,
) -> Monitors:
    """Return all monitors of a chunk's output as scalars on its device; the weights must not have changed since."""
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
    if model.vector_decoder is not None and inputs.vectors is not None:
        found["vector_ratio"] = vector_ratio(model.vector_decoder(observed.states.features), inputs.vectors)
    if inputs.rewards is not None:
        predicted = model.reward_head.predict(observed.states.features)
        found |= reward_monitors(predicted, inputs.rewards)
    return found | imagination_gap(model, observed, inputs.is_first, inputs.actions, inputs.rewards, generator)


def context_ratio(context: Tensor, predicted: Tensor) -> Tensor:
    """Return the error of ĉ over that of the chunk's mean context: [B, T, C] x2 -> []; at 1, ĉ is uninformative."""
    return context_nll(context, predicted).mean() / context_nll(context, context.mean((0, 1))).mean()


def vector_ratio(predicted: Tensor, vectors: Tensor) -> Tensor:
    """Return the squared error of predicted symlog vectors over that of their mean in the chunk: [B, T, V] x2 -> []."""
    actual = symlog(vectors)
    return (predicted - actual).square().mean() / (actual - actual.mean((0, 1))).square().mean()


def attention_monitors(attention: AttentionOutput, is_first: Tensor) -> Monitors:
    """Return the largest slot's share of the cells, and the predicted movement's error over that of no movement.

    is_first [B, T] is that of the whole chunk, of which the attention may have seen some sequences only.
    """
    if attention.sequences is not None:
        is_first = is_first[attention.sequences]
    maps, predicted = attention.maps, attention.predicted_movement
    mass = attention.responsibilities.mean((-2, -1))  # [B, T, S]
    error, error_of_still = (
        movement_loss(maps, mass, movement, None, is_first).mean()
        for movement in (predicted, torch.zeros_like(predicted))
    )
    return {
        "attention_mass_max": mass.mean((0, 1)).max(),
        "attention_movement_ratio": (error + STILL) / (error_of_still + STILL),
    }


def reward_monitors(predicted: Tensor, rewards: Tensor) -> Monitors:
    """Return the mean absolute error of rewards [B, T], and that of the largest tenth relative to their mean |r|.

    The latter is not finite if there was no reward.
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
    """Measure the gap between dreams under the real actions and the real states, k steps after the start (HORIZONS).

    Every posterior state starts one dream; those that cross a reset within k steps do not count for k.
    `imag_gap_carry/k`: mean |g_dream - g| over mean |g - mean g|; 0 at k = 1, before anything has been sampled, and
    about √2 for an unrelated state. `imag_gap_kl/k`: KL(posterior, prior of the dreamed carry),
    or the prior's bound on it; at k = 1 that of training. `imag_gap_reward/k`: mean absolute error of the reward.
    """
    states, mean, std = observed.states, observed.mean, observed.std
    batch, steps = is_first.shape
    length = min(HORIZONS[-1], steps - 1)
    if length < 1:
        return {}
    logged = functional.pad(actions, (0, 0, 0, length))  # [B, T + length, A]; steps beyond T do not count
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
        dreamed = dream.map(partial(_after, k, batch))
        is_same = episode[:, k:] == episode[:, : steps - k]  # [B, T - k]
        gaps = {
            "carry": (dreamed.carry - carry[:, k:]).norm(dim=-1) / spread,
            "kl": model.prior(dreamed.prior_input).kl(mean[:, k:], std[:, k:])[0],
        }
        if rewards is not None:
            gaps["reward"] = (model.reward_head.predict(dreamed.features) - rewards[:, k:]).abs()
        found |= {f"imag_gap_{name}/{k}": _mean(gap, is_same) for name, gap in gaps.items()}
    return found


def _after(k: int, batch: int, dreams: Tensor) -> Tensor:
    """Return row k of the dreams [B * T, ...] from each state, where the chunk has it: [B, T - k, ...]."""
    rows = dreams[:, k].unflatten(0, (batch, -1))
    return rows[:, : rows.shape[1] - k]


def _mean(x: Tensor, where: Tensor) -> Tensor:
    """Return the mean of the entries of x that `where` marks; NaN if there are none."""
    return torch.where(where, x, 0.0).sum() / where.sum()
