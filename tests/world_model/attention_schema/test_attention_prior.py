"""Top-down prior: distributions over cells, dependence on map and state, ranges of the movement head."""

import torch

from world_model.attention_schema import AttentionPrior

N, STATE, SLOTS = 4, 10, 3


def make() -> AttentionPrior:
    torch.manual_seed(0)
    return AttentionPrior(STATE, SLOTS, channels=8)


def uniform() -> torch.Tensor:
    return torch.full((N, SLOTS, 8, 8), 1 / 64)


def test_prior_maps_are_distributions_above_the_mix() -> None:
    maps = make()(uniform(), torch.randn(N, STATE))
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(N, SLOTS))
    assert (maps >= 0.01 / 64 * (1 - 1e-6)).all()


def test_without_change_the_prior_keeps_the_maps_once_mixed() -> None:
    prior = make()
    torch.nn.init.zeros_(prior.to_logits.weight)
    prior.to_logits.bias = None
    previous = torch.rand(N, SLOTS, 64).softmax(-1).unflatten(-1, (8, 8))
    torch.testing.assert_close(prior(previous, torch.randn(N, STATE)), 0.99 * previous + 0.01 / 64)


def test_each_frame_depends_on_its_own_maps_and_state() -> None:
    prior, state, previous = make(), torch.randn(N, STATE), uniform()
    before = prior(previous, state)
    changed_state = state.clone()
    changed_state[1] *= -1.0
    changed_maps = previous.clone()
    changed_maps[2, 0, 0, 0] *= 2.0
    assert (prior(previous, changed_state) != before).flatten(1).any(-1).tolist() == [False, True, False, False]
    assert (prior(changed_maps, state) != before).flatten(1).any(-1).tolist() == [False, False, True, False]


def test_movement_depends_on_the_state_and_starts_at_precision_one() -> None:
    prior = make()
    state = torch.randn(N, STATE)
    movement, log_precision = prior.movement(prior.embed(state)[1])
    assert movement.shape == (N, SLOTS, 2)
    assert log_precision.shape == (N, SLOTS)
    assert movement.std(0).min() > 0
    assert log_precision.abs().max() < 1.0  # small head weights around exactly 0
    with torch.no_grad():
        prior.to_movement.weight.mul_(1e4)
    _, extreme = prior.movement(prior.embed(state)[1])
    assert extreme.min() >= -4
    assert extreme.max() <= 8
    assert extreme.max() - extreme.min() > 11
