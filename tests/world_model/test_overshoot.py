"""Latent overshooting: what is dreamt, what it is held against, and which rows count."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from agent.config.presets import make_config
from tests.world_model.small_model import make_model, make_sample, merge, rng

STEPS = 3
QUIET = {"overshoot": STEPS, "max_components": 1, "perceiver_config": {"enabled": False}, "dream_noise": 0.0}


def losses_of(model, sample, rewards=True):
    targets = (sample.rewards, sample.is_terminal) if rewards else ()
    return model(sample.observations, sample.actions, sample.is_first, *targets, generator=rng())


@torch.no_grad()
@pytest.mark.parametrize(("steps", "starts"), [(3, [2]), (2, [1, 3]), (1, [0, 1, 2, 3, 4])])
def test_dreams_of_the_last_rows_are_held_against_what_came(steps, starts):
    """By hand, for one Gaussian without noise: the carry by the LSTM, the latent at the prior's mean, and so on."""
    changes = {"overshoot": steps, "prior_config": {"kind": "gaussian", "free_nats": 0.0}}
    model, sample = make_model(**merge(QUIET, changes)).eval(), make_sample()
    torch.nn.init.normal_(model.reward_head.net[-1].weight)
    output = losses_of(model, sample)
    states, rows = output.observed.states, sample.is_first.shape[1]
    counted = rows - 1 - starts[0]
    for row in range(starts[0] + 1, rows):
        if row - 1 in starts:
            hidden, cell, latent = (x[:, row - 1] for x in (states.hidden, states.cell, states.latent))
        context = latent.new_zeros(len(latent), model.context_dim)
        hidden, cell = model.dynamics(torch.cat([latent, context, sample.actions[:, row - 1]], -1), hidden, cell)
        prior = model.prior(hidden[:, -1])
        latent = prior.mean
        posterior = Normal(output.observed.mean[:, row], output.observed.std[:, row])
        expected = kl_divergence(posterior, Normal(prior.mean, prior.std)).sum(-1) * rows / counted
        torch.testing.assert_close(output.losses["overshoot_kl"][:, row], expected, rtol=1e-4, atol=1e-4)
        nll = model.reward_head.nll(torch.cat([hidden[:, -1], latent], -1), sample.rewards[:, row]) * rows / counted
        torch.testing.assert_close(output.losses["overshoot_nll"][:, row], nll, rtol=1e-4, atol=1e-4)
    for name in ("overshoot_kl", "overshoot_nll"):
        assert not output.losses[name][:, : starts[0] + 1].any()


@torch.no_grad()
def test_rows_after_a_reset_in_their_dream_do_not_count():
    cases = [(3, (), [3, 4, 5]), (3, (4,), [3]), (3, (3,), []), (2, (2,), [4, 5]), (2, (3,), [2, 4, 5])]
    for steps, resets, counted in cases:
        model = make_model(**merge(QUIET, {"overshoot": steps})).eval()
        found = losses_of(model, make_sample(resets=resets)).losses["overshoot_kl"]
        assert found.any(0).nonzero().flatten().tolist() == counted
        assert found.isfinite().all()


def test_what_came_is_a_target_and_the_dream_reaches_its_start():
    model, sample = make_model(**QUIET), make_sample()
    frames = sample.observations.requires_grad_()
    torch.nn.init.normal_(model.reward_head.net[-1].weight)
    found = losses_of(model, sample).losses
    for name in ("overshoot_kl", "overshoot_nll"):
        (gradient,) = torch.autograd.grad(found[name].mean(), frames, retain_graph=True)
        reached = gradient.flatten(2).any(-1).any(0)
        assert reached.tolist() == [True, True, True, False, False, False]


def test_a_chunk_without_rewards_and_one_that_is_short():
    model = make_model(**merge(QUIET, {"overshoot": 30}))
    output = losses_of(model, make_sample(), rewards=False)
    assert "overshoot_nll" not in output.losses
    assert output.losses["overshoot_kl"][:, 1:].all()
    assert not output.losses["overshoot_kl"][:, 0].any()
    nothing = losses_of(model, make_sample(steps=1)).losses  # to dream: there is no row before it
    assert not nothing["overshoot_kl"].any()
    assert not nothing["overshoot_nll"].any()


def test_settings_that_contradict_each_other_are_named():
    with pytest.raises(ValueError, match=r"^overshoot: got 0, expected a positive integer or null$"):
        make_model(overshoot=0)
    changes = {"world_model.overshoot": 16, "replay.batch_length": 16}
    with pytest.raises(ValueError, match=r"world_model\.overshoot, replay\.batch_length: got \(16, 16\)"):
        make_config("debug", "counting", changes)
