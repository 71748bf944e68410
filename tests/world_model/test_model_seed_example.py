"""The seed document's own usage example, and what it promises at its sizes."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from world_model import DPGMMVariationalRecurrentAutoencoder

B, T = 8, 16
SHAPES = {
    "observations": (B, T, 3, 64, 64),
    "reconstructions": (B, T, 3, 64, 64),
    "context": (B, T, 256),
    "context_pred": (B, T, 256),
    **dict.fromkeys(("z_mean", "z_logvar", "z_posterior", "z_prior"), (B, T, 36)),
    **dict.fromkeys(("pi", "responsibilities"), (B, T, 15)),
    **dict.fromkeys(("mu_k", "sigma_k"), (B, T, 15, 36)),
    **dict.fromkeys(("log_a", "log_b"), (B, T, 14)),
    **dict.fromkeys(("h_t", "carry"), (B, T, 512)),
    **dict.fromkeys(
        ("attention_maps", "prior_attention_maps", "slot_responsibilities", "decoder_maps"), (B, T, 5, 8, 8)
    ),
    "attention_precision": (B, T, 5),
    "predicted_movement": (B, T, 5, 2),
    "vq_indices": (B, T, 8, 8),
    **dict.fromkeys(("vq_perplexity", "effective_components"), ()),
    **dict.fromkeys(("is_first", "alpha"), (B, T)),
    **dict.fromkeys(("recon_loss", "kl_z", "kl_bound", "hierarchical_kl", "cluster_entropy", "gram_enc_loss"), (B, T)),
    **dict.fromkeys(("vq_recon", "vq_commit", "next_token_ce", "context_nll"), (B, T)),
    **dict.fromkeys(("attention_kl", "attention_dynamics_loss", "attention_diversity", "slot_recon"), (B, T)),
}


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, Any]]:
    """Names that the example leaves behind, and the weights it started from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield run_example()


def run_example() -> dict[str, Any]:
    # Setup
    from multi_task_learning import RGB, LossAggregator

    # Create model
    model = DPGMMVariationalRecurrentAutoencoder(
        max_components=15,
        latent_dim=36,
        hidden_dim=512,
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    # Create loss aggregator and optimizer
    loss_agg = LossAggregator()
    rgb = RGB()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)

    # Training step
    observations = torch.randn(8, 16, 3, 64, 64)  # Batch of sequences
    actions = torch.randn(8, 16, 6)

    # Forward
    outputs = model.forward_sequence(observations, actions)

    # Compute losses
    losses_dict, task_losses = loss_agg.compute_losses(outputs, beta=1.0, lambda_recon=1.0)

    # Backward with RGB
    optimizer.zero_grad()
    rgb.task_num = len(task_losses)
    rgb.device = observations.device
    rgb.rep_grad = False
    rgb.get_share_params = lambda: model.parameters()
    rgb.backward(task_losses)

    # Update
    optimizer.step()

    # Log
    lines = [
        f"ELBO: {losses_dict['total_elbo'].item():.4f}",
        f"Perceiver: {losses_dict['perceiver_loss'].item():.4f}",
        f"Predictive: {losses_dict['total_predictive'].item():.4f}",
    ]
    return locals()


def test_it_logs_three_finite_totals(example: dict[str, Any]) -> None:
    assert len(example["task_losses"]) == 3
    for line in example["lines"]:
        assert re.fullmatch(r"\w+: -?\d+\.\d{4}", line), line


def test_outputs_have_the_public_names_and_shapes(example: dict[str, Any]) -> None:
    outputs = example["outputs"]
    assert {name: tuple(value.shape) for name, value in outputs.items() if name != "states"} == SHAPES
    for name in SHAPES:
        assert torch.isfinite(outputs[name].float()).all(), name


def test_a_step_keeps_the_parameters_it_started_with_and_moves_them(example: dict[str, Any]) -> None:
    """Nothing is created lazily: such layers would be in no optimizer."""
    after = dict(example["model"].named_parameters())
    assert after.keys() == example["before"].keys()
    untrained = ("teacher.", "reward_head.", "continue_head.")  # the example gives no rewards and no ends
    for name, parameter in after.items():
        moved = not torch.equal(parameter.detach(), example["before"][name])
        assert moved != name.startswith(untrained), name


def test_weights_of_mixture_maps_and_slots_sum_to_one(example: dict[str, Any]) -> None:
    outputs = example["outputs"]
    sums = {
        "pi": outputs["pi"].sum(-1),
        "responsibilities": outputs["responsibilities"].sum(-1),
        "attention_maps": outputs["attention_maps"].sum((-2, -1)),
        "prior_attention_maps": outputs["prior_attention_maps"].sum((-2, -1)),
        "slot_responsibilities": outputs["slot_responsibilities"].sum(-3),
    }
    for name, value in sums.items():
        torch.testing.assert_close(value, torch.ones_like(value), atol=1e-5, rtol=0, msg=name)
