"""A world model of toy size and chunks for it; every pillar is on unless a test changes that."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from multi_task_learning import LossAggregator
from world_model import DPGMMVariationalRecurrentAutoencoder
from world_model.output import ModelOutput
from world_model.state import State

SMALL: dict[str, Any] = {
    "max_components": 4,
    "latent_dim": 6,
    "hidden_dim": 32,
    "action_dim": 2,
    "perceiver_config": {"codebook_size": 16, "code_dim": 8, "context_dim": 16, "num_latents": 2, "width": 16,
                         "num_heads": 2, "num_blocks": 2, "window": 4},
    "prior_config": {"trunk_dim": 16},
    "encoder_config": {"base_channels": 8, "embedding_dim": 32, "hidden_dim": 32},
    "decoder_config": {"base_channels": 8},
    "attention_config": {"num_slots": 3, "slot_dim": 8, "prior_dim": 16},
    "head_config": {"hidden_dim": 32},
}  # fmt: skip

SWITCHES: dict[str, dict[str, Any]] = {
    "all on": {},
    "attention off": {"attention_config": {"enabled": False}},
    "Huber movement": {"attention_config": {"use_precision": False}},
    "perceiver off": {"perceiver_config": {"enabled": False}},
    "no context": {"context_mode": "none"},
    "perceiver beside the trunk": {"perceiver_config": {"trains_trunk": False}},
    "teacher context": {"context_mode": "teacher"},
    "Gaussian prior": {"max_components": 1},
    "exact Gaussian prior": {"prior_config": {"kind": "gaussian"}},
    "balanced KL": {"prior_config": {"kl_balance": True, "free_nats": 1.0, "unimix": 0.01}},
    "posterior without carry": {"encoder_config": {"uses_carry": False}},
    "plain trunk, no teacher": {"encoder_config": {"residual": False, "gram_fraction": 0.0}},
    "two LSTM layers": {"n_lstm_layers": 2},
    "Xavier LSTM": {"use_orthogonal": False},
    "coarse stem": {"encoder_config": {"stem_stride": 4}},
    "coarsest stem": {"encoder_config": {"stem_stride": 8}},
    "frame stack": {"encoder_config": {"frame_stack": 3}},
    "motion": {"encoder_config": {"motion_dim": 8}},
    "overshoot": {"overshoot": 3},
    "fine cells": {"perceiver_config": {"fine_cells": True}, "encoder_config": {"stem_stride": 4}},
    "two resolutions": {"decoder_config": {"resolutions": 2}},
    "action path": {"prior_config": {"action_path": True}},
    "slow latent": {"slow_config": {"every": 2}, "overshoot": 2},
    "half the sequences attended to": {"attention_config": {"train_fraction": 0.5}},
    "posterior maps in half": {"attention_config": {"prior_share": 0.5}},
    "half the frames": {"decoder_config": {"train_fraction": 0.5}, "perceiver_config": {"train_fraction": 0.5}},
    "all off": {
        "attention_config": {"enabled": False},
        "perceiver_config": {"enabled": False},
        "max_components": 1,
        "use_orthogonal": False,
        "encoder_config": {"uses_carry": False, "gram_fraction": 0.0},
    },
}

EXTENDED: dict[str, Any] = {"prior_config": {"action_path": True}, "slow_config": {"every": 3, "latent_dim": 5}}
TOTALS = ("total_elbo", "perceiver_loss", "total_predictive")


class Sample(NamedTuple):
    """Arguments of forward_sequence, in order."""

    observations: Tensor
    actions: Tensor
    is_first: Tensor
    rewards: Tensor
    is_terminal: Tensor


def merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with nested `changes`, as a new dict."""
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = merge(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


def make_model(seed: int = 0, **changes: Any) -> DPGMMVariationalRecurrentAutoencoder:
    """The toy model, its weights drawn with `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DPGMMVariationalRecurrentAutoencoder(**merge(SMALL, changes))


def make_sample(
    batch: int = 2, steps: int = 6, action_dim: int = 2, resets: tuple[int, ...] = (), seed: int = 1, size: int = 64
) -> Sample:
    """A random chunk whose rows all reset at the given indices."""
    generator = rng(seed)
    is_first = torch.zeros(batch, steps, dtype=torch.bool)
    is_first[:, list(resets)] = True
    return Sample(
        torch.rand(batch, steps, 3, size, size, generator=generator),
        2 * torch.rand(batch, steps, action_dim, generator=generator) - 1,
        is_first,
        torch.randn(batch, steps, generator=generator),
        torch.rand(batch, steps, generator=generator) < 0.2,
    )


def rng(seed: int = 0) -> torch.Generator:
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)


def tensors(state: State) -> dict[str, Tensor]:
    """All tensors of a state by name."""
    named = state._asdict().items()
    parts = {name: value if isinstance(value, tuple) else (value,) for name, value in named}
    return {f"{name}.{index}": tensor for name, value in parts.items() for index, tensor in enumerate(value)}


def training_losses(
    model: DPGMMVariationalRecurrentAutoencoder, sample: Sample, generator: torch.Generator
) -> tuple[dict[str, Tensor], ModelOutput]:
    """Every loss and total of a sample as the learner has them, and the output they are of."""
    output = model(*sample, generator)
    return LossAggregator(model.loss_groups()).compute_losses(output.losses)[0], output


def total(losses: dict[str, Tensor]) -> Tensor:
    """Sum of the task losses that are there."""
    return torch.stack([losses[name] for name in TOTALS if name in losses]).sum()
