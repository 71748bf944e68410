"""Health monitors: scalars that say whether each pillar does its part. For log time only, never part of a loss.

Measured on the outputs of a training forward, before its optimizer step, and without a wait for the device. The
monitors of a pillar that is off are absent; one that nothing in the chunk speaks of is not finite. Names, meanings and
expected ranges: docs/monitors.md.
"""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from world_model.attention_schema import movement_loss
from world_model.generative_prior import (
    PriorParams,
    effective_components,
    mixture_kl_monte_carlo,
    mixture_kl_upper_bound,
    usage_metrics,
)
from world_model.losses import context_nll
from world_model.model import DPGMMVariationalRecurrentAutoencoder
from world_model.state import State

HORIZONS = (1, 5, 15)  # steps of a dream after which it is compared with what happened
TOP_SHARE = 0.1  # of the rewards, by size, that the reward head is judged on
KL_SAMPLES = 4
STILL = 1e-4  # Huber loss of half a pixel: centres that move less are still

Monitors = dict[str, Tensor]


@torch.no_grad()
def measure(
    model: DPGMMVariationalRecurrentAutoencoder,
    outputs: dict[str, Any],
    actions: Tensor,
    rewards: Tensor | None = None,
    generator: Generator | None = None,
) -> Monitors:
    """All monitors of a chunk, scalars on its device.

    outputs of `forward_sequence` with the weights that the model still has, its actions [B, T, A], rewards [B, T].
    """
    found = mixture_monitors(outputs, generator)
    if model.perceiver is not None:
        quantizer = model.perceiver.tokenizer.quantizer
        is_dead = quantizer.counts < quantizer.dead_share * quantizer.counts.mean()
        found |= {"vq_ema_perplexity": quantizer.ema_perplexity(), "vq_dead_share": is_dead.float().mean()}
    if "context_nll" in outputs:
        found["context_ratio"] = context_ratio(outputs["context"], outputs["context_pred"])
    if model.attention is not None:
        found |= attention_monitors(outputs)
    if rewards is not None:
        predicted = model.reward_head.predict(outputs["states"].features)
        found |= reward_monitors(predicted, rewards)
    return found | imagination_gap(model, outputs, actions, rewards, generator)


def mixture_monitors(outputs: dict[str, Any], generator: Generator | None = None) -> Monitors:
    """Pillar 2: components that data use (mean responsibilities) and that the gate keeps open (weights), in [1, K].

    Entropies in nats. `mixture_gap` is the share of the bound J that is slack: (J - KL) / J, KL by Monte Carlo.
    """
    usage = usage_metrics(outputs["responsibilities"])
    found = {f"components_used/{name.removeprefix('usage_')}": usage[name] for name in usage if "usage" in name}
    found |= {f"components_open/{name}": x.mean() for name, x in effective_components(outputs["pi"]).items()}
    found |= {f"component_{name}": usage[name] for name in ("mutual_information", "conditional_entropy")}
    mean, std = _posterior(outputs)
    bound, mixture = outputs["kl_bound"].mean(), (outputs["pi"].log(), outputs["mu_k"], outputs["sigma_k"])
    exact = mixture_kl_monte_carlo(mean, std, *mixture, num_samples=KL_SAMPLES, generator=generator).mean()
    return found | {"mixture_gap": (bound - exact) / bound}


def context_ratio(context: Tensor, predicted: Tensor) -> Tensor:
    """Error of ĉ over the error of the chunk's mean context: [B, T, C] x2 -> []; 1 says that ĉ knows nothing."""
    return context_nll(context, predicted).mean() / context_nll(context, context.mean((0, 1))).mean()


def attention_monitors(outputs: dict[str, Any]) -> Monitors:
    """Pillar 4: the largest slot's share of the cells, and the error of the foreseen movement over that of "still"."""
    maps, foreseen, is_first = outputs["attention_maps"], outputs["predicted_movement"], outputs["is_first"]
    mass = outputs["slot_responsibilities"].mean((-2, -1))  # [B, T, S]
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
    outputs: dict[str, Any],
    actions: Tensor,
    rewards: Tensor | None = None,
    generator: Generator | None = None,
) -> Monitors:
    """How far a dream under the logged actions is from what happened, k steps after its start, for k in HORIZONS.

    Every posterior state starts one dream; those that cross a reset within k steps do not count for k.
    `imag_gap_carry/k`: mean |g_dream - g| over mean |g - mean g|; 0 at k = 1, where nothing has been drawn yet, and
    about √2 where the dream is a state of its own. `imag_gap_kl/k`: bound J on KL(posterior, mixture of the dreamed
    carry); at k = 1 that of training. `imag_gap_reward/k`: mean absolute error of the reward.
    """
    states, is_first = outputs["states"], outputs["is_first"]
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
    mean, std = _posterior(outputs)
    carry, episode = states.carry, is_first.cumsum(1)
    spread = (carry - carry.mean((0, 1))).norm(dim=-1).mean()
    found: Monitors = {}
    for k in (k for k in HORIZONS if k <= length):
        dreamed = State(*(x[:, k].unflatten(0, (batch, steps))[:, : steps - k] for x in dream))
        is_same = episode[:, k:] == episode[:, : steps - k]  # [B, T - k]
        gaps = {
            "carry": (dreamed.carry - carry[:, k:]).norm(dim=-1) / spread,
            "kl": _bound(mean[:, k:], std[:, k:], model.prior(dreamed.carry)),
        }
        if rewards is not None:
            gaps["reward"] = (model.reward_head.predict(dreamed.features) - rewards[:, k:]).abs()
        found |= {f"imag_gap_{name}/{k}": _mean(gap, is_same) for name, gap in gaps.items()}
    return found


def _mean(x: Tensor, where: Tensor) -> Tensor:
    """Mean of the entries of x that `where` marks; NaN where there are none."""
    return torch.where(where, x, 0.0).sum() / where.sum()


def _posterior(outputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q(z_t|...), [B, T, D] each."""
    return outputs["z_mean"], (0.5 * outputs["z_logvar"]).exp()


def _bound(mean: Tensor, std: Tensor, prior: PriorParams) -> Tensor:
    return mixture_kl_upper_bound(mean, std, prior.log_weights, prior.means, prior.stds)
