"""The prior's path from (z, a), the slow latent, and several resolutions: what they read and what they change."""

from typing import Any

import pytest
import torch

from tests.world_model.small_model import make_model, make_sample, rng, total, training_losses
from world_model.distributions import diagonal_gaussian_kl
from world_model.losses import reconstruction_error

EVERY = 3


@pytest.mark.parametrize("kind", ["mixture", "gaussian"])
def test_the_action_path_begins_silent_and_then_tells_actions_apart(kind: str) -> None:
    """The carry is kept as it is, so only the path can make a difference."""
    model, sample = make_model(prior_config={"kind": kind, "action_path": True}), make_sample()
    states = model.observe(*sample[:3], rng()).states
    (arrival,) = states.arrival
    assert torch.equal(arrival[:, 1:], torch.cat([states.latent, sample.actions], -1)[:, :-1])
    assert not arrival[:, 0].any()
    swapped = states._replace(arrival=(torch.cat([arrival[..., :-2], -arrival[..., -2:]], -1),))
    params = [model.prior(state.prior_input) for state in (states, swapped)]
    for before, after in zip(*params, strict=True):
        assert torch.equal(before, after)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        total(training_losses(model, sample, rng())[0]).backward()
        optimizer.step()
    before, after = (model.prior(state.prior_input) for state in (states, swapped))
    names = ("log_weights", "means") if kind == "mixture" else ("mean",)
    for name in names:
        different = (getattr(before, name) != getattr(after, name)).flatten(2).any(-1)
        assert torch.equal(different, arrival[..., -2:].any(-1)), name  # all but the first row, which no action led to


@pytest.mark.parametrize(
    ("resets", "ages"),
    [((), [0, 1, 2, 0, 1, 2, 0, 1]), ((2,), [0, 1, 0, 1, 2, 0, 1, 2]), ((3, 4), [0, 1, 2, 0, 0, 1, 2, 0])],
)
def test_the_slow_clock_ticks_at_resets_and_every_k_rows(resets: tuple[int, ...], ages: list[int]) -> None:
    model = make_model(slow_config={"every": EVERY})
    observed = model.observe(*make_sample(steps=8, resets=resets)[:3], rng())
    latent, age = observed.states.slow
    assert age[..., 0].tolist() == 2 * [ages]
    assert observed.slow is not None
    assert torch.equal(observed.slow.is_tick, age[..., 0] == 0)
    held = torch.tensor(ages[1:]) > 0
    assert torch.equal((latent[:, 1:] == latent[:, :-1]).all(-1), held.expand(2, -1))


def test_a_slow_latent_is_drawn_from_the_mean_carry_since_the_tick_before() -> None:
    """By hand, row by row, over two resets; the prior reads the slow latent before it, 0 at a reset."""
    model, sample = make_model(slow_config={"every": EVERY}), make_sample(steps=9, resets=(0, 5))
    observed = model.observe(*sample[:3], sample=False)
    slow, found, carry = model.slow, observed.slow, observed.states.carry
    assert slow is not None
    assert found is not None
    seen, before = [], torch.zeros(2, slow.dim)
    for t in range(9):
        if t in (0, 5):
            seen, before = [], torch.zeros(2, slow.dim)
        seen.append(carry[:, t])
        if t in (0, 3, 5, 8):
            inputs = torch.cat([torch.stack(seen).mean(0), carry[:, t]], -1)
            mean = slow.posterior(inputs).chunk(2, -1)[0]
            torch.testing.assert_close(found.latent[:, t], mean, rtol=1e-4, atol=1e-5)
            source = torch.cat([before, carry[:, t]], -1)
            torch.testing.assert_close(found.source[:, t], source, rtol=1e-4, atol=1e-5)
            seen, before = [], found.latent[:, t]
        assert torch.equal(found.latent[:, t], before)


def test_the_slow_kl_is_that_of_the_ticks() -> None:
    """One component, so that the mixture's bound is the exact KL of two Gaussians."""
    config = {"every": EVERY, "max_components": 1, "free_nats": 0.0}
    model, sample = make_model(slow_config=config), make_sample(steps=5)
    output = model(*sample, rng())
    found, slow = output.observed.slow, model.slow
    assert slow is not None
    params = slow.prior(found.source)
    expected = 1.5 * diagonal_gaussian_kl(found.mean, found.std, params.means[..., 0, :], params.stds[..., 0, :])
    loss = output.losses["slow_kl"]
    torch.testing.assert_close(loss[:, [0, 3]], expected[:, [0, 3]], rtol=1e-4, atol=1e-5)
    assert not loss[:, [1, 2, 4]].any()


@torch.no_grad()
def test_a_dream_ticks_the_clock_of_every_row_by_itself() -> None:
    model = make_model(slow_config={"every": EVERY})
    states = model.observe(*make_sample(batch=1, steps=3)[:3], rng()).states.map(lambda x: x[0])  # ages 0, 1, 2
    dream, _ = model.imagine(states, lambda state: state.features[:, :2].tanh(), 4, rng())
    latent, age = dream.slow
    assert age[..., 0].tolist() == [[0, 1, 2, 0, 1], [1, 2, 0, 1, 2], [2, 0, 1, 2, 0]]
    is_held = (latent[:, 1:] == latent[:, :-1]).all(-1)
    assert torch.equal(is_held, age[:, 1:, 0] != 0)
    assert dream.features.shape[-1] == model.config.feature_dim == 32 + 6 + 8


@torch.no_grad()
def test_a_dreams_slow_latent_is_drawn_from_its_own_prior() -> None:
    model = make_model(slow_config={"every": 1}).eval()
    states = model.observe(*make_sample(batch=1)[:3], sample=False).states
    start = states.map(lambda x: x[:, -1].expand(4000, *x.shape[2:]))
    action, slow = torch.zeros(4000, 2), model.slow
    assert slow is not None
    reached = model.imagine_step(start, action, model.draw_noise((4000,), rng()))
    carry = model.advance(start, action)[0][:1, -1]
    prior = slow.prior(torch.cat([start.slow[0][:1], carry], -1))
    weights, means = prior.log_weights[0].exp()[:, None], prior.means[0]
    mean = (weights * means).sum(0)
    spread = (weights * ((means - mean).square() + prior.stds[0].square())).sum(0).sqrt()
    # four standard errors of mean and std of 4000 draws with std about 1
    torch.testing.assert_close(reached.slow[0].mean(0), mean, rtol=0, atol=0.08)
    torch.testing.assert_close(reached.slow[0].std(0), spread, rtol=0, atol=0.06)


@pytest.mark.parametrize("size", [96, 128])
def test_frames_of_other_sizes_are_learned_from_dreamt_and_acted_on(size: int) -> None:
    encoder = {"stem_stride": 8, "motion_dim": 8, "frame_stack": 2}
    model, sample = make_model(image_size=size, encoder_config=encoder), make_sample(steps=4, size=size)
    losses, output = training_losses(model, sample, rng())
    total(losses).backward()
    assert output.reconstructions.shape == sample.observations.shape
    start = output.observed.states.map(lambda x: x[:, -1].detach())
    dream, _ = model.imagine(start, lambda state: state.features[:, :2].tanh(), 2, rng())
    assert model.decode(dream).shape == (2, 3, 3, size, size)
    state, _ = model.observe_step(model.initial(2), sample.observations[:, 0], sample.is_first[:, 0])
    assert state.features.isfinite().all()
    with pytest.raises(ValueError, match=rf"expected \[B, T, 3, {size}, {size}\]$"):
        model(*make_sample(steps=4))


def test_fine_cells_show_the_context_what_a_code_cannot() -> None:
    """Two frames of the same codes, and so of the same context without fine cells."""
    for has_fine, differs in ((False, False), (True, True)):
        model = make_model(perceiver_config={"fine_cells": has_fine}).eval()
        assert model.perceiver is not None
        model.perceiver.tokenizer.project.weight.data.zero_()
        contexts = model.observe(*make_sample(batch=2, steps=1)[:3], sample=False).context
        assert torch.equal(contexts[0], contexts[1]) is not differs


def test_errors_at_several_resolutions() -> None:
    """An error of the whole frame weighs the same at each; one that a pool of 2 x 2 averages out is halved."""
    target, flat = torch.zeros(3, 3, 64, 64), torch.full((3, 3, 64, 64), 0.5)
    checker = flat * (1 - 2 * (torch.arange(64)[:, None] + torch.arange(64)).remainder(2))
    for error, expected in ((flat, 1.0), (checker, 1 / 3)):
        found = reconstruction_error(target, error, 3)
        torch.testing.assert_close(found, torch.full((3,), expected * 0.25 * 3 * 64 * 64))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"every": 0}, "slow_config.every: got 0, expected a positive integer or null"),
        ({"every": 4, "free_nats": -1.0}, "slow_config.free_nats: got -1.0, expected 0 or more"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}$"):
        make_model(slow_config=changes)
