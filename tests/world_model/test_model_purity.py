"""What a forward may change, and the paths from a frame to its reconstruction."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.world_model.small_model import make_model, make_sample, rng, total, training_losses


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_inputs_are_left_alone() -> None:
    model, sample = make_model(), make_sample(resets=(3,))
    kept = [x.clone() for x in sample]
    losses, output = training_losses(model, sample, rng())
    total(losses).backward()
    model.after_update(output, rng())
    for name, now, then in zip(sample._fields, sample, kept, strict=True):
        assert torch.equal(now, then), name
    memory = model.initial(2)
    assert memory.cache is not None
    copies = copy.deepcopy([x.detach() for x in (memory.hidden, memory.cell, *memory.cache)])
    model.observe_step(memory, sample.observations[:, 0], sample.is_first[:, 0])
    for now, then in zip((memory.hidden, memory.cell, *memory.cache), copies, strict=True):
        assert torch.equal(now, then)


def test_evaluation_changes_no_buffer() -> None:
    model, sample = make_model().eval(), make_sample()
    before = buffers(model)
    outputs = model.forward_sequence(*sample, rng())
    model.observe_step(model.initial(2), sample.observations[:, 0], sample.is_first[:, 0], rng(), sample=True)
    start = outputs["states"].map(lambda x: x[:, 0])
    model.imagine(start, lambda state: state.features[:, :2], 2, rng())
    assert changed(model, before) == set()


def test_training_moves_the_codebook_only_and_only_after_the_outputs() -> None:
    model, sample = make_model(), make_sample()
    model.forward_sequence(*sample, rng())  # fills the codebook
    twin, before = copy.deepcopy(model), buffers(model)
    first, second = model.forward_sequence(*sample, rng()), twin.forward_sequence(*sample, rng())
    for name in first.keys() - {"states"}:
        assert torch.equal(first[name], second[name]), name
    moved = changed(model, before)
    assert "perceiver.tokenizer.quantizer.codebook" in moved
    assert all(name.startswith("perceiver.tokenizer.quantizer.") for name in moved)
    # What the forward used is the codebook from before the move.
    old = before["perceiver.tokenizer.quantizer.codebook"]
    seen = twin.eval().perceiver
    assert seen is not None
    seen.tokenizer.quantizer.codebook.copy_(old)
    again = twin.observe(*sample[:3], rng()).perceived
    assert again is not None
    assert torch.equal(again.indices, first["vq_indices"])


@pytest.mark.parametrize("where", ["rewards", "actions"])
def test_a_broken_batch_leaves_nothing_behind(where: str) -> None:
    """Its gradient step is skipped; its buffers must not stay broken either."""
    model, sample = make_model(), make_sample()
    model.forward_sequence(*sample, rng())
    broken = sample._replace(**{where: getattr(sample, where).clone()})
    getattr(broken, where)[0, 2] = torch.nan
    losses, output = training_losses(model, broken, rng())
    assert not total(losses).isfinite()
    model.after_update(output, rng())
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
    losses, output = training_losses(model, sample, rng())
    model.after_update(output, rng())
    assert all(loss.isfinite() for loss in losses.values())


def test_after_update_moves_the_teacher_a_little_towards_the_trunk() -> None:
    model, sample = make_model(), make_sample()
    output = model(*sample, rng())
    with torch.no_grad():
        for parameter in model.trunk.parameters():
            parameter.add_(1.0)
    before = buffers(model)
    model.after_update(output, rng())
    moved = changed(model, before)
    assert {name for name in moved if not name.startswith("prior.")} == {n for n in before if n.startswith("teacher.")}
    for name in (n for n in moved if n.startswith("teacher.")):
        expected = before[name] + 0.005 * (before[name.replace("teacher", "trunk")] - before[name])
        torch.testing.assert_close(model.state_dict()[name], expected)


def test_gradients_stop_at_the_teacher() -> None:
    model, sample = make_model(), make_sample()
    losses, _ = model.compute_total_loss(*sample, rng())
    total(losses).backward()
    assert model.teacher is not None
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


def test_the_same_generator_gives_the_same_outputs_and_another_does_not() -> None:
    model, sample = make_model().eval(), make_sample()
    torch.manual_seed(5)
    first = model.forward_sequence(*sample, rng(3))
    torch.manual_seed(6)  # the global generator has no say
    second, third = (model.forward_sequence(*sample, rng(seed)) for seed in (3, 4))
    for name in ("z_posterior", "z_prior", "reconstructions"):
        assert torch.equal(first[name], second[name]), name
        assert not torch.equal(first[name], third[name]), name


def test_every_entry_of_a_chunk_draws_its_own_noise() -> None:
    model, sample = make_model().eval(), make_sample(batch=2, steps=3, resets=(0, 1, 2))
    same = sample.observations[:1, :1].expand(2, 3, -1, -1, -1)
    seen = model.observe(same, sample.actions, sample.is_first, rng())
    noise = ((seen.states.latent - seen.mean) / seen.std).flatten(0, 1)  # [6, D]
    assert torch.pdist(noise).min() > 0.1


def test_no_path_from_a_frame_to_its_reconstruction_but_latent_carry_and_maps() -> None:
    model, sample = make_model(), make_sample()
    frames = sample.observations.requires_grad_()
    outputs = model.eval().forward_sequence(*sample, rng())
    states, maps = outputs["states"], outputs["decoder_maps"]
    cut = [x.detach().requires_grad_() for x in (states.hidden, states.latent, maps)]
    decoded = model.decode(states._replace(hidden=cut[0], latent=cut[1]), cut[2])
    assert torch.equal(decoded, outputs["reconstructions"])  # decoding them is all that happened
    gradients = torch.autograd.grad(decoded.sum(), [*cut, frames], allow_unused=True)
    assert gradients[-1] is None
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients[:-1])


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.5, 10, 30), (1.0, 40, 40)])
def test_the_decoder_trains_on_prior_maps_in_a_share_of_the_sequences(share: float, fewest: int, most: int) -> None:
    """40 fair coins fall outside 10 to 30 with probability 0.001; the seed is fixed."""
    model, sample = make_model(attention_config={"prior_share": share}), make_sample(batch=40, steps=2)
    outputs = model.forward_sequence(*sample, rng())
    prior = model.prior_maps(outputs["states"])
    distance = [
        (outputs["decoder_maps"] - maps).abs().amax((1, 2, 3, 4)) for maps in (outputs["attention_maps"], prior)
    ]
    is_posterior, is_prior = (d < 1e-6 for d in distance)
    assert (is_posterior ^ is_prior).all()
    assert fewest <= is_prior.sum() <= most
    again = model.decode(outputs["states"], outputs["decoder_maps"])
    torch.testing.assert_close(outputs["reconstructions"], again, rtol=1e-5, atol=1e-6)


def test_evaluation_decodes_what_a_dream_would_show() -> None:
    model, sample = make_model(attention_config={"prior_share": 0.0}).eval(), make_sample()
    outputs = model.forward_sequence(*sample, rng())
    seen = model.decode(outputs["states"])
    torch.testing.assert_close(outputs["reconstructions"], seen, rtol=1e-5, atol=1e-6)
