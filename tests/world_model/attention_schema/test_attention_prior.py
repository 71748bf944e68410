"""Top-down prior: distributions over cells, dependence on the state alone, ranges of the movement's precision."""

import torch

from world_model.attention_schema import AttentionPrior

N, STATE, SLOTS = 4, 10, 3


def make() -> AttentionPrior:
    torch.manual_seed(0)
    return AttentionPrior(STATE, SLOTS, hidden_dim=16)


def test_maps_are_distributions_above_the_mix() -> None:
    prior = make()
    with torch.no_grad():
        prior.net[-1].weight.mul_(1e3)  # type: ignore[operator, union-attr]
    maps = prior(torch.randn(2, N, STATE)).maps
    assert maps.shape == (2, N, SLOTS, 8, 8)
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, N, SLOTS))
    assert (maps >= 0.01 / 64 * (1 - 1e-6)).all()
    assert maps.max() > 0.9  # and can be sharp


def test_it_starts_near_the_uniform_map_and_precision_one() -> None:
    expected = make()(torch.randn(N, STATE))
    assert (64 * expected.maps - 1).abs().max() < 0.5
    assert expected.movement.abs().max() < 0.5
    assert expected.log_precision.abs().max() < 1.0


def test_each_frame_depends_on_its_own_state() -> None:
    prior, state = make(), torch.randn(N, STATE)
    changed = state.clone()
    changed[1] *= -1.0
    for before, after in zip(prior(state), prior(changed), strict=True):
        assert (after != before).flatten(1).any(-1).tolist() == [False, True, False, False]


def test_precision_stays_in_its_range() -> None:
    prior = make()
    with torch.no_grad():
        prior.net[-1].weight.mul_(1e4)  # type: ignore[operator, union-attr]
    extreme = prior(torch.randn(64, STATE)).log_precision
    assert extreme.shape == (64, SLOTS)
    assert extreme.min() >= -4
    assert extreme.max() <= 8
    assert extreme.max() - extreme.min() > 11
