"""The attention schema's losses against hand calculations, and its shift of maps across resets."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from world_model.attention_schema import AttentionSchema, attention_kl, centre_of_mass, diversity, movement_loss
from world_model.config import AttentionConfig

B, T, CHANNELS, CARRY, LATENT, SLOTS = 2, 6, 6, 10, 4, 3


def make(**options: float) -> AttentionSchema:
    torch.manual_seed(0)
    sizes = {"num_slots": SLOTS, "slot_dim": 8, "prior_dim": 16}
    return AttentionSchema(CHANNELS, CARRY, LATENT, AttentionConfig(**(sizes | options)))  # type: ignore[arg-type]


def make_data(resets: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[:, list(resets)] = True
    features = torch.randn(B, T, CHANNELS, 8, 8, generator=generator)
    carry, latent = (torch.randn(B, T, n, generator=generator) for n in (CARRY, LATENT))
    return features, carry, latent, is_first


def random_maps(*lead: int, seed: int = 0) -> Tensor:
    logits = 2 * torch.randn(*lead, 64, generator=torch.Generator().manual_seed(seed))
    return (0.99 * logits.softmax(-1) + 0.01 / 64).unflatten(-1, (8, 8))


def one_hot_map(row: int, column: int) -> Tensor:
    maps = torch.zeros(8, 8)
    maps[row, column] = 1.0
    return maps


def test_shapes() -> None:
    *data, _ = make_data()
    output = make()(*data)
    for maps in (output.maps, output.prior_maps, output.responsibilities):
        assert maps.shape == (B, T, SLOTS, 8, 8)
    assert output.mass.shape == output.log_precision.shape == (B, T, SLOTS)
    assert output.predicted_movement.shape == (B, T, SLOTS, 2)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (7, 7), (2, 5)])
def test_centre_of_a_one_hot_map_is_its_cell_centre(row: int, column: int) -> None:
    expected = torch.tensor([(2 * column + 1) / 8 - 1, (2 * row + 1) / 8 - 1])
    torch.testing.assert_close(centre_of_mass(one_hot_map(row, column)), expected)


def test_centre_of_a_uniform_map_is_the_middle() -> None:
    centres = centre_of_mass(torch.full((2, 3, 8, 8), 1 / 64))
    torch.testing.assert_close(centres, torch.zeros(2, 3, 2), atol=1e-6, rtol=0)


def test_kl_of_equal_maps_is_zero() -> None:
    maps, mass = random_maps(B, T, SLOTS), torch.full((B, T, SLOTS), 1 / SLOTS)
    torch.testing.assert_close(attention_kl(maps, maps.clone(), mass), torch.zeros(B, T))


def test_kl_by_numpy() -> None:
    maps, prior = random_maps(B, T, SLOTS, seed=1), random_maps(B, T, SLOTS, seed=2)
    mass = torch.rand(B, T, SLOTS, generator=torch.Generator().manual_seed(3))
    p, q = maps.double().numpy(), prior.double().numpy()
    expected = (mass.double().numpy() * (p * np.log(p / q)).sum((-2, -1))).sum(-1)
    np.testing.assert_allclose(attention_kl(maps, prior, mass).numpy(), expected, rtol=1e-4)


def test_kl_is_bounded_by_the_mix() -> None:
    far = [0.99 * one_hot_map(*cell) + 0.01 / 64 for cell in ((0, 0), (7, 7))]
    kl = attention_kl(far[0].view(1, 1, 1, 8, 8), far[1].view(1, 1, 1, 8, 8), torch.ones(1, 1, 1))
    peak, floor = 0.99 + 0.01 / 64, 0.01 / 64
    expected = (peak - floor) * math.log(peak / floor)
    assert expected == pytest.approx(8.667, abs=1e-3)
    assert kl.item() == pytest.approx(expected, rel=1e-5)


def test_kl_is_balanced_and_its_mass_has_no_gradient() -> None:
    maps, prior = random_maps(B, T, SLOTS, seed=1).requires_grad_(), random_maps(B, T, SLOTS, seed=2).requires_grad_()
    mass = torch.full((B, T, SLOTS), 1 / SLOTS, requires_grad=True)
    attention_kl(maps, prior, mass).sum().backward()
    # d KL / d prior = -maps / prior, d KL / d maps = ln(maps / prior) + 1
    torch.testing.assert_close(prior.grad, -0.8 / SLOTS * (maps / prior).detach())
    torch.testing.assert_close(maps.grad, 0.2 / SLOTS * ((maps / prior).log() + 1).detach(), rtol=1e-4, atol=1e-5)
    assert mass.grad is None


def test_the_prior_of_training_is_that_of_dreams_and_sees_no_frame() -> None:
    schema = make()
    features, carry, latent, _ = make_data()
    output = schema(features, carry, latent)
    dreamed = schema.expect(carry, latent)
    assert torch.equal(dreamed.maps, output.prior_maps)
    assert torch.equal(schema(torch.randn_like(features), carry, latent).prior_maps, output.prior_maps)


def test_frames_are_independent() -> None:
    schema = make()
    features, carry, latent, _ = make_data()
    before = schema(features, carry, latent)
    changed = features.clone()
    changed[0, 1] += 1.0
    after = schema(changed, carry, latent)
    assert (after.maps != before.maps).flatten(2).any(-1).nonzero().tolist() == [[0, 1]]


def moving_maps() -> Tensor:
    """One slot, one row: columns 1, 2, 2, then (new episode) 7, 6; row 3."""
    return torch.stack([one_hot_map(3, column) for column in (1, 2, 2, 7, 6)]).view(1, 5, 1, 8, 8)


@pytest.mark.parametrize("log_precision", [None, 0.0, 2.0])
def test_movement_loss_by_hand(log_precision: float | None) -> None:
    is_first = torch.tensor([[False, False, False, True, False]])
    predicted = torch.tensor([[[9.0, 9.0], [0.25, 0.5], [0.0, 2.0], [9.0, 9.0], [0.25, 0.0]]]).view(1, 5, 1, 2)
    precision = None if log_precision is None else torch.full((1, 5, 1), log_precision)
    loss = movement_loss(moving_maps(), torch.ones(1, 5, 1), predicted, precision, is_first)
    # true movements are .25, 0 and (after the reset) -.25 in x: errors (0, .5), (0, 2), (.5, 0) at t = 1, 2, 4
    if log_precision is None:
        per_step = [0.5 * 0.25, 2.0 - 0.5, 0.5 * 0.25]
    else:
        per_step = [0.5 * math.exp(log_precision) * square - log_precision for square in (0.25, 4.0, 0.25)]
    scale = 5 / 3
    expected = torch.tensor([[0.0, per_step[0] * scale, per_step[1] * scale, 0.0, per_step[2] * scale]])
    torch.testing.assert_close(loss, expected)
    assert loss.mean().item() == pytest.approx(sum(per_step) / 3, rel=1e-6)


def test_best_precision_is_that_of_the_error() -> None:
    """Of e^rho d^2 / 2 - rho the minimum over rho lies at e^-rho = d^2 / 2, the variance per coordinate."""
    rho = torch.tensor(0.3, requires_grad=True)
    predicted = torch.full((1, 5, 1, 2), math.sqrt(0.5) * math.exp(-0.15) * math.sqrt(2))
    maps = one_hot_map(0, 0).expand(1, 5, 1, 8, 8)
    is_first = torch.zeros(1, 5, dtype=torch.bool)
    movement_loss(maps, torch.ones(1, 5, 1), predicted, rho.expand(1, 5, 1), is_first).mean().backward()
    assert rho.grad is not None
    assert abs(rho.grad.item()) < 1e-5


def test_movement_target_and_mass_carry_no_gradient() -> None:
    maps, mass = moving_maps().requires_grad_(), torch.ones(1, 5, 1, requires_grad=True)
    predicted = torch.ones(1, 5, 1, 2, requires_grad=True)
    is_first = torch.zeros(1, 5, dtype=torch.bool)
    movement_loss(maps, mass, predicted, torch.zeros(1, 5, 1), is_first).sum().backward()
    assert maps.grad is None
    assert mass.grad is None
    assert predicted.grad is not None


def test_movement_loss_without_valid_pair_is_zero() -> None:
    maps, predicted = moving_maps(), torch.ones(1, 5, 1, 2)
    all_first = torch.ones(1, 5, dtype=torch.bool)
    assert torch.equal(movement_loss(maps, torch.ones(1, 5, 1), predicted, None, all_first), torch.zeros(1, 5))
    one = movement_loss(maps[:, :1], torch.ones(1, 1, 1), predicted[:, :1], None, ~all_first[:, :1])
    assert torch.equal(one, torch.zeros(1, 1))


def test_diversity_of_disjoint_identical_and_random_maps() -> None:
    disjoint = torch.stack([one_hot_map(0, 0), one_hot_map(0, 1), one_hot_map(5, 5)])
    torch.testing.assert_close(diversity(disjoint), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(diversity(random_maps(1).expand(4, 8, 8)), torch.tensor(1.0))
    maps = random_maps(B, T, SLOTS)
    flat = maps.flatten(-2).double().numpy()
    cosines = [
        (flat[..., i, :] * flat[..., j, :]).sum(-1)
        / np.linalg.norm(flat[..., i, :], axis=-1)
        / np.linalg.norm(flat[..., j, :], axis=-1)
        for i, j in itertools.combinations(range(SLOTS), 2)
    ]
    np.testing.assert_allclose(diversity(maps).numpy(), np.mean(cosines, 0), rtol=1e-4)
    assert torch.equal(diversity(random_maps(B, T, 1)), torch.zeros(B, T))


@pytest.mark.parametrize("use_precision", [True, False])
def test_losses_are_per_step_and_every_parameter_learns(use_precision: bool) -> None:
    schema = make(use_precision=use_precision)
    *data, is_first = make_data(resets=(2,))
    losses = schema.losses(schema(*data), is_first)
    assert set(losses) == {"attention_kl", "attention_dynamics_loss", "attention_diversity", "slot_recon"}
    for name, loss in losses.items():
        assert loss.shape == (B, T), name
        assert loss.isfinite().all(), name
    sum(loss.mean() for loss in losses.values()).backward()  # type: ignore[union-attr]
    for name, parameter in schema.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or (not use_precision and "to_movement" in name), name


def test_the_prior_learns_where_a_moving_thing_is() -> None:
    """Maps that shift one cell per step, each with its state: the KL falls to a tenth of that of uniform maps."""
    schema = make(num_slots=1)
    maps = torch.stack([0.99 * one_hot_map(3, column) + 0.01 / 64 for column in range(1, 7)]).view(1, 6, 1, 8, 8)
    _, carry, latent, _ = make_data()
    mass = torch.ones(1, 6, 1)
    optimizer = torch.optim.Adam(schema.prior.parameters(), lr=1e-2)

    def kl() -> Tensor:
        return attention_kl(maps, schema.expect(carry[:1], latent[:1]).maps, mass).mean()

    for _ in range(200):
        optimizer.zero_grad()
        kl().backward()
        optimizer.step()
    of_uniform = attention_kl(maps, torch.full_like(maps, 1 / 64), mass).mean()
    assert kl() < 0.1 * of_uniform


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_slots": 0}, "num_slots: got 0"),
        ({"slot_dim": -8}, "slot_dim: got -8"),
        ({"iterations": 0}, "iterations: got 0"),
        ({"prior_dim": 0}, "prior_dim: got 0"),
        ({"map_mix": 0.0}, "map_mix: got 0.0"),
        ({"map_mix": 1.0}, "map_mix: got 1.0"),
    ],
)
def test_bad_settings(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bad_features() -> None:
    features, carry, latent, _ = make_data()
    with pytest.raises(ValueError, match=r"features: got shape \(2, 6, 6, 8, 7\)"):
        make()(features[..., :7], carry, latent)


def test_resets_and_carries_of_another_shape_are_refused() -> None:
    schema = make()
    features, carry, latent, is_first = make_data()
    output = schema(features, carry, latent)
    with pytest.raises(ValueError, match=r"is_first: got torch.int64 \(.*\), expected bool"):
        schema.losses(output, is_first.long())
    with pytest.raises(ValueError, match="is_first: got"):
        schema.losses(output, is_first[:, 1:])
    with pytest.raises(ValueError, match="carry: got shape"):
        schema(features, carry[..., 1:], latent)
