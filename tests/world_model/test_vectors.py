"""Vectors beside the frames, or alone: what reads them, what predicts them, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.world_model.small_model import make_model, make_sample, rng, tensors
from world_model.config import WITHOUT_FRAMES
from world_model.loss_groups import regroup
from world_model.monitors import measure, vector_ratio
from world_model.state import State, stack_states

V = 3
LAST_FRAMES_ALONE = {"perceiver_config": {"enabled": False}, "encoder_config": {"uses_carry": False}}
ALONE: dict[str, Any] = {
    "image_size": 0,
    "perceiver_config": {"enabled": False},
    "attention_config": {"enabled": False},
    "encoder_config": {"gram_fraction": 0.0},
}


def make_vectors(batch: int = 2, steps: int = 6) -> Tensor:
    """Numbers between about -30 and 30, another one at every row."""
    return 10 * torch.randn(batch, steps, V, generator=rng(7))


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, ALONE], ids=["beside frames", "alone"])
def test_acting_infers_what_training_infers(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world_model.model.standard_normal", lambda shape, *_: torch.zeros(shape))
    model, vectors = make_model(vector_dim=V, **changes).eval(), make_vectors()
    sample = make_sample(resets=(0, 3), size=changes.get("image_size", 64))
    trained = model.observe(*sample[:3], vectors=vectors).states
    memory, states = model.initial(2), list[State]()
    for t, action in enumerate(sample.actions.unbind(1)):
        given = sample.observations[:, t], sample.is_first[:, t]
        state, memory = model.observe_step(memory, *given, vectors=vectors[:, t])
        memory = model.remember(memory, state, action)
        states.append(state)
    torch.testing.assert_close(tensors(stack_states(states, 1)), tensors(trained), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{"perceiver_config": {"enabled": False}}, ALONE], ids=["beside frames", "alone"])
def test_a_burn_in_reads_its_vectors(changes: dict[str, Any]) -> None:
    model, vectors = make_model(vector_dim=V, recurrence_noise=0.0, **changes).eval(), make_vectors()
    sample = make_sample(size=changes.get("image_size", 64))
    whole = model.observe(*sample[:3], sample=False, vectors=vectors).states.carry[:, 4:]
    before, after = (tuple(x[:, rows] for x in sample[:3]) for rows in (slice(4), slice(4, None)))
    start = model.warm_up(*before, vectors=vectors[:, :4])
    found = model.observe(*after, sample=False, start=start, vectors=vectors[:, 4:]).states.carry
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_vector_is_read_at_its_own_row_and_later_ones() -> None:
    model, sample, vectors = make_model(vector_dim=V).eval(), make_sample(), make_vectors()
    other = vectors.clone()
    other[:, 3] += 1.0
    means = [model.observe(*sample[:3], sample=False, vectors=x).mean for x in (vectors, other)]
    assert torch.equal(means[0][:, :3], means[1][:, :3])
    assert not torch.equal(means[0][:, 3], means[1][:, 3])
    assert not torch.equal(means[0][:, 4], means[1][:, 4])  # through the carry


def test_all_losses_train_the_encoder_and_none_but_its_own_the_decoder() -> None:
    model, sample, vectors = make_model(vector_dim=V), make_sample(), make_vectors()
    output = model(*sample, rng(), vectors=vectors)
    encoder, decoder = model.posterior.vector_part, model.vector_decoder
    assert encoder is not None
    assert decoder is not None
    losses = {name: loss.mean() for name, loss in output.losses.items()}
    for name in ("recon_loss", "kl_z", "vector_recon"):
        found = torch.autograd.grad(losses[name], list(encoder.parameters()), retain_graph=True)
        assert all(gradient.any() for gradient in found), name
    weights, others = list(decoder.parameters()), sum(x for name, x in losses.items() if name != "vector_recon")
    assert all(x is None for x in torch.autograd.grad(others, weights, retain_graph=True, allow_unused=True))
    assert all(gradient.any() for gradient in torch.autograd.grad(losses["vector_recon"], weights))


def test_its_loss_counts_in_the_reconstructions_group() -> None:
    model, sample = make_model(vector_dim=V), make_sample()
    losses, _ = model.compute_total_loss(*sample, rng(), make_vectors(), lambda_recon=2.0)
    twice, _ = model.compute_total_loss(*sample, rng(), make_vectors(), lambda_recon=4.0)
    grown = twice["total_elbo"] - losses["total_elbo"]
    torch.testing.assert_close(grown, 2 * (losses["recon_loss"] + losses["vector_recon"]), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("changes", [LAST_FRAMES_ALONE, ALONE], ids=["beside frames", "alone"])
def test_a_trained_model_predicts_the_vector_better_than_its_mean(changes: dict[str, Any]) -> None:
    """The frames are the same everywhere, so that only the vector can tell the latent."""
    size = changes.get("image_size", 64)
    model, sample = make_model(vector_dim=V, **changes), make_sample(batch=4, steps=6, size=size)
    sample, vectors = sample._replace(observations=torch.full((4, 6, 3, size, size), 0.5)), make_vectors(4, 6)
    optimizer, ratios = torch.optim.Adam(model.parameters(), lr=3e-3), list[float]()
    for step in range(41):
        output = model(*sample, rng(step), vectors=vectors)
        assert model.vector_decoder is not None
        predicted = model.vector_decoder(output.observed.states.features)
        ratios.append(float(vector_ratio(predicted.detach(), vectors)))
        optimizer.zero_grad()
        sum(loss.mean() for loss in output.losses.values()).backward()
        optimizer.step()
    assert ratios[0] > 0.8
    assert ratios[-1] < 0.5
    expected = model.vector_decoder.predict(output.observed.states.features)
    assert (expected - vectors).abs().median() < 5  # in the vector's own units, of which its std is 10


def test_without_frames_every_weight_learns_from_losses_of_the_same_groups() -> None:
    model, sample = make_model(vector_dim=V, **ALONE), make_sample(size=0)
    output = model(*sample, rng(), vectors=make_vectors())
    sum(loss.mean() for loss in output.losses.values()).backward()
    assert all(weight.grad is not None for weight in model.parameters())  # there is nothing that reads frames
    assert {term for terms in model.loss_groups().values() for term in terms} == output.losses.keys()
    assert "recon_loss" not in output.losses
    assert regroup(model.loss_groups())["total_reconstruction"] == {"vector_recon": ("lambda_recon",)}
    assert all(x.isfinite().all() for x in model.state_dict().values())
    predicted = model.rollout(output.observed.states.map(lambda x: x[:, -1]), sample.actions, rng())
    assert predicted.frames is not None
    assert predicted.frames.shape == (2, 6, 3, 0, 0)


@pytest.mark.parametrize("setting", [*WITHOUT_FRAMES, "vector_dim"])
def test_what_reads_frames_is_refused_without_them(setting: str) -> None:
    others: dict[str, Any] = {"encoder_config.frame_stack": 2, "encoder_config.motion_dim": 8}
    others |= {"encoder_config.gram_fraction": 0.5, "decoder_config.resolutions": 2, "vector_dim": None}
    block, _, name = setting.rpartition(".")
    changes = ALONE | {"vector_dim": V}
    value = others.get(setting, True)
    changes |= {block: changes.get(block, {}) | {name: value}} if block else {name: value}
    with pytest.raises(ValueError, match=rf"^{setting}.*: got .*, expected .*") as caught:
        make_model(**changes)
    assert "image_size" in str(caught.value)


def test_the_monitor_is_there_with_vectors_alone() -> None:
    for vector_dim, vectors in ((V, make_vectors()), (None, None)):
        model, sample = make_model(vector_dim=vector_dim), make_sample()
        output = model(*sample, rng(), vectors=vectors)
        assert ("vector_ratio" in measure(model, output, rng())) == (vector_dim is not None)
        assert ("vector_recon" in output.losses) == (vector_dim is not None)


@pytest.mark.parametrize(
    ("vector_dim", "vectors", "line"),
    [
        (V, None, r"vectors: got none, expected shape \(2, 6, 3\)"),
        (None, torch.zeros(2, 6, V), r"vectors: got shape \(2, 6, 3\), expected none"),
        (V, torch.zeros(2, 6, V + 1), r"vectors: got shape \(2, 6, 4\), expected shape \(2, 6, 3\)"),
        (V, torch.zeros(2, 5, V), r"vectors: got shape \(2, 5, 3\), expected shape \(2, 6, 3\)"),
        (V, torch.zeros(2, 6, V).double(), "vectors: got torch.float64, expected the weights' torch.float32"),
    ],
)
def test_other_vectors_are_refused_in_one_line(vector_dim: int | None, vectors: Tensor | None, line: str) -> None:
    model, sample = make_model(vector_dim=vector_dim), make_sample()
    with pytest.raises(ValueError, match=f"^{line}$"):
        model(*sample, vectors=vectors)
    step = None if vectors is None else vectors[:, 0]
    if vectors is None or vectors.shape[1] == 6:
        with pytest.raises(ValueError, match=r"^vectors: got "):
            model.observe_step(model.initial(2), sample.observations[:, 0], sample.is_first[:, 0], vectors=step)
