"""Attention to a share of the sequences: losses of the same mean, gradients of those sequences alone."""

import pytest
import torch

from tests.world_model.small_model import make_model, make_sample, rng
from world_model import monitors, terms
from world_model.loss_groups import OF_PART

NAMES = OF_PART["attention"]
HALF = {"attention_config": {"train_fraction": 0.5}}


def half_of(model, output, seed):
    """The schema's output and losses for half of the sequences."""
    is_first = output.inputs.is_first
    found = terms.attention_terms(model.attention, model.prior_maps, output.observed, is_first, 0.5, 1.0, rng(seed))
    return found[0], found[2]


def test_the_mean_over_all_choices_is_the_loss_of_all_sequences():
    """Of two sequences, each is chosen by some seed; together they have the losses of both, resets or not."""
    model, sample = make_model().eval(), make_sample(batch=2, resets=(3,))
    with torch.no_grad():
        output = model(*sample, generator=rng())
        found = {}
        for seed in range(20):
            attention, losses = half_of(model, output, seed)
            found[int(attention.sequences)] = losses
    for name in NAMES:
        both = torch.stack([found[i][name].mean() for i in range(2)]).mean()
        torch.testing.assert_close(both, output.losses[name].mean(), rtol=1e-5, atol=1e-6)


def test_other_sequences_are_not_read():
    model, sample = make_model(**HALF), make_sample(batch=4)
    frames = sample.observations.requires_grad_()
    output = model(*sample, generator=rng())
    chosen = output.attention.sequences.tolist()
    assert len(chosen) == len(set(chosen)) == 2
    loss = sum(output.losses[name].mean() for name in NAMES)
    (gradient,) = torch.autograd.grad(loss, frames)
    assert gradient.flatten(1).any(1).nonzero().flatten().tolist() == sorted(chosen)
    assert all(output.losses[name].shape == (4, 6) for name in NAMES)


def test_evaluation_attends_to_all_and_the_decoder_sees_every_prior_map():
    model, sample = make_model(**HALF), make_sample()
    trained = model(*sample, generator=rng())
    assert torch.equal(trained.decoder_maps, model.prior_maps(trained.observed.drawn))
    found = monitors.measure(model, trained, rng())
    assert 0 < found["attention_mass_max"] <= 1
    evaluated = model.eval()(*sample, generator=rng())
    assert evaluated.attention.sequences is None
    assert evaluated.attention.maps.shape[:2] == (2, 6)


@pytest.mark.parametrize("resets", [(), (3,)])
def test_monitors_are_those_of_the_sequences_attended_to(resets):
    model, sample = make_model().eval(), make_sample(batch=2, resets=resets)
    with torch.no_grad():
        output = model(*sample, generator=rng())
        attention, _ = half_of(model, output, 0)
        i = int(attention.sequences)
        alone = output.attention._replace(
            **{name: value[i : i + 1] for name, value in output.attention._asdict().items() if value is not None}
        )
        found = monitors.attention_monitors(attention, output.inputs.is_first)
        expected = monitors.attention_monitors(alone, output.inputs.is_first[i : i + 1])
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
