"""Every pillar and every control can be switched; what is left trains, dreams and acts."""

import pytest
import torch

from tests.world_model.small_model import SWITCHES, TOTALS, make_model, make_sample, rng, total, training_losses


@pytest.mark.parametrize("name", SWITCHES)
def test_it_trains_dreams_and_acts(name: str) -> None:
    model, sample = make_model(**SWITCHES[name]), make_sample(steps=5, resets=(3,))
    losses, output = training_losses(model, sample, rng())
    total(losses).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name
    model.after_update(output, rng())
    for loss_name, loss in losses.items():
        assert loss.isfinite(), loss_name
    start = output.observed.states.map(lambda x: x.detach().flatten(0, 1))
    dream, _ = model.imagine(start, lambda state: state.features[:, :2].tanh(), 3, rng())
    frames = model.decode(dream)
    assert frames.shape == (10, 4, 3, 64, 64)
    assert frames.isfinite().all()
    state, memory = model.observe_step(model.initial(2), sample.observations[:, 0], sample.is_first[:, 0], rng(), True)
    hidden, _ = model.advance(state, sample.actions[:, 0])
    assert hidden.shape == memory.hidden.shape
    assert state.features.isfinite().all()


@pytest.mark.parametrize("name", SWITCHES)
def test_every_parameter_is_reached(name: str) -> None:
    """After one step, since zero-initialised output layers block the first. 16 channels: with one channel to a group
    a normalisation takes the convolution's bias away."""
    wide = {"encoder_config": {"base_channels": 16}, "decoder_config": {"base_channels": 16}}
    changes = {**SWITCHES[name], **{k: v | SWITCHES[name].get(k, {}) for k, v in wide.items()}}
    assert unreached(make_model(**changes), make_sample(steps=4, resets=(2,))) == []


def test_every_parameter_is_reached_at_the_seed_sizes() -> None:
    from world_model import DPGMMVariationalRecurrentAutoencoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DPGMMVariationalRecurrentAutoencoder()
    assert unreached(model, make_sample(steps=3, action_dim=6)) == []


def unreached(model: torch.nn.Module, sample: tuple[torch.Tensor, ...]) -> list[str]:
    """Trainable parameters whose gradient in the second step is rounding noise; the least real ones are near 1e-4."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        losses, _ = model.compute_total_loss(*sample, rng())  # type: ignore[operator]
        total(losses).backward()
        gradients = {name: p.grad for name, p in parameters.items()}
        optimizer.step()
    return [n for n, g in gradients.items() if (g is None or g.norm() < 1e-5)]


def test_absent_pillars_leave_no_key_behind() -> None:
    sample = make_sample()[:2]
    off = make_model(**SWITCHES["all off"]).forward_sequence(*sample)
    on = make_model().forward_sequence(*sample)
    gone = {"context", "context_pred", "context_nll", "vq_indices", "vq_perplexity", "vq_recon", "vq_commit"}
    gone |= {"next_token_ce", "gram_enc_loss", "attention_maps", "prior_attention_maps", "slot_responsibilities"}
    gone |= {"attention_precision", "predicted_movement", "attention_kl", "attention_dynamics_loss"}
    assert on.keys() - off.keys() == gone | {"attention_diversity", "slot_recon"}
    assert not off.keys() - on.keys()


def test_the_task_losses_are_the_weighted_terms_each_in_one_task() -> None:
    """The names that the model gives its losses are the names that have a weight: none is dropped in silence."""
    losses, outputs = make_model().compute_total_loss(*make_sample(), rng())
    weights = {"recon_loss": 1, "kl_z": 1, "hierarchical_kl": 1, "cluster_entropy": -0.1, "gram_enc_loss": 0.05}
    weights |= {"vq_recon": 1, "vq_commit": 0.25, "next_token_ce": 1, "attention_kl": 1, "attention_diversity": 1}
    weights |= {"attention_dynamics_loss": 0.1, "slot_recon": 1, "context_nll": 0.1, "reward_nll": 1, "continue_nll": 1}
    assert losses.keys() == weights.keys() | set(TOTALS)
    expected = sum(weight * outputs[name].detach().double().mean().item() for name, weight in weights.items())
    assert total(losses).item() == pytest.approx(expected, rel=1e-5)
    not_losses = {"is_first", "kl_bound", "alpha"}  # what else is [B, T]
    per_step = {name for name, value in outputs.items() if name != "states" and value.shape == (2, 6)}
    assert per_step - not_losses == weights.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "names"), [("decoder_config", ["recon_loss"]), ("perceiver_config", ["vq_recon", "next_token_ce"])]
)
def test_a_part_of_the_frames_gives_the_full_loss_on_average(block: str, names: list[str]) -> None:
    model = make_model(attention_config={"enabled": False}, **{block: {"train_fraction": 0.25}})
    sample = make_sample()
    model.train().forward_sequence(*sample, rng(), sample=False)  # the frames' statistics are those of this batch
    assert model.perceiver is not None
    model.perceiver.update_codebook = lambda *_: None  # type: ignore[assignment]  # the codes stay where they are
    full = model.eval().forward_sequence(*sample, rng(), sample=False)
    model.train()
    parts: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(200):
        outputs = model.forward_sequence(*sample, rng(seed), sample=False)
        for name in names:
            parts[name].append(outputs[name].mean().item())
            assert (outputs[name] > 0).sum() <= 3  # a quarter of 12 frames
    for name, values in parts.items():
        error = torch.tensor(values).std().item() / 200**0.5
        assert sum(values) / 200 == pytest.approx(full[name].mean().item(), abs=4 * error + 1e-4), name
        assert error < 0.1 * full[name].mean().item(), name


def test_half_precision_runs_without_a_warning() -> None:
    """pytest turns warnings into errors; half precision must keep losses in float32."""
    model, sample = make_model(), make_sample(steps=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, outputs = model.compute_total_loss(*sample, rng())
        start = outputs["states"].map(lambda x: x[:, -1].detach())
        dream, _ = model.imagine(start, lambda state: state.features[:, :2].tanh(), 2, rng())
        model.decode(dream)
    total(losses).backward()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32, name
        assert loss.isfinite(), name
