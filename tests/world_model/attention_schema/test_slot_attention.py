"""Slot attention: normalisations, symmetries, and that maps are normalised once."""

import torch

from world_model.attention_schema import SlotAttention

N, CHANNELS, CARRY, SLOTS, DIM = 4, 6, 10, 3, 8


def make() -> SlotAttention:
    torch.manual_seed(0)
    return SlotAttention(CHANNELS, CARRY, num_slots=SLOTS, slot_dim=DIM)


def make_data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, CHANNELS, 8, 8, generator=generator), torch.randn(N, CARRY, generator=generator)


def test_shapes_and_sums() -> None:
    output = make()(*make_data())
    assert output.slots.shape == (N, SLOTS, DIM)
    assert output.maps.shape == output.responsibilities.shape == (N, SLOTS, 8, 8)
    torch.testing.assert_close(output.maps.sum((-2, -1)), torch.ones(N, SLOTS))
    torch.testing.assert_close(output.responsibilities.sum(1), torch.ones(N, 8, 8))
    torch.testing.assert_close(output.mass, output.responsibilities.mean((-2, -1)))
    torch.testing.assert_close(output.mass.sum(-1), torch.ones(N))
    assert (output.maps >= 0.01 / 64).all()


def test_maps_are_the_responsibilities_normalised_once() -> None:
    output = make()(*make_data())
    shares = output.responsibilities
    expected = 0.99 * shares / shares.sum((-2, -1), keepdim=True) + 0.01 / 64
    torch.testing.assert_close(output.maps, expected, rtol=1e-5, atol=1e-7)


def test_a_slot_that_owns_a_blob_has_a_localised_map() -> None:
    """A slot that wins exactly a 3 x 3 patch has 99 % of its map there (a second softmax would leave 14 %)."""
    attention = make()
    cells = torch.zeros(1, 64, DIM)
    is_blob = torch.zeros(8, 8, dtype=torch.bool)
    is_blob[1:4, 4:7] = True
    cells[0, :, 0] = torch.where(is_blob.flatten(), 40.0, -40.0)
    with torch.no_grad():
        attention.iterations = 1
        attention.to_key_value.weight[:DIM].copy_(torch.eye(DIM))
        attention.to_query = torch.nn.Sequential()
        _, shares, weights = attention.compete(cells, torch.eye(DIM)[0] * torch.tensor([4.0, 0.0, -4.0])[None, :, None])
    assert shares[0, 0, is_blob.flatten()].min() > 0.999
    assert weights[0, 0, is_blob.flatten()].sum() > 0.999


def test_permuting_the_queries_permutes_the_slots() -> None:
    attention, data = make(), make_data()
    before = attention(*data)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        attention.queries.copy_(attention.queries[order])
    after = attention(*data)
    torch.testing.assert_close(after.recon_error, before.recon_error)
    for old, new in zip(before[:-1], after[:-1], strict=True):
        torch.testing.assert_close(new, old[:, order], rtol=1e-5, atol=1e-6)


def test_duplicating_all_cells_changes_no_slot() -> None:
    attention = make()
    generator = torch.Generator().manual_seed(2)
    cells, slots = torch.randn(N, 20, DIM, generator=generator), torch.randn(N, SLOTS, DIM, generator=generator)
    once, twice = attention.compete(cells, slots), attention.compete(cells.repeat(1, 2, 1), slots)
    torch.testing.assert_close(twice[0], once[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(twice[1], once[1].repeat(1, 1, 2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(twice[2], once[2].repeat(1, 1, 2) / 2, rtol=1e-5, atol=1e-6)


def test_frames_are_independent_and_the_carry_matters() -> None:
    attention, (features, carry) = make(), make_data()
    before = attention(features, carry).maps
    changed = carry.clone()
    changed[2] += 1.0
    is_changed = (attention(features, changed).maps != before).flatten(1).any(-1)
    assert is_changed.tolist() == [False, False, True, False]


def test_every_parameter_learns() -> None:
    attention = make()
    output = attention(*make_data())
    (output.maps.square().sum() + output.slots.square().sum() + output.recon_error.sum()).backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_slots_that_draw_nothing_miss_everything() -> None:
    """Cells are normalised to mean square 1 over their channels, so that an empty drawing has error 1."""
    attention = make()
    with torch.no_grad():
        attention.to_features.weight.zero_()
        attention.to_features.bias.zero_()
    torch.testing.assert_close(attention(*make_data()).recon_error, torch.ones(N), rtol=1e-4, atol=1e-4)


def test_drawing_the_features_makes_a_slot_follow_a_moving_thing() -> None:
    """Frames of one patch on a background: trained on recon_error alone, one slot's map has its mass on the patch."""
    attention = make()
    generator = torch.Generator().manual_seed(3)
    thing, background = torch.randn(2, CHANNELS, generator=generator)
    frames = background[None, :, None, None].repeat(32, 1, 8, 8)
    is_thing = torch.zeros(32, 8, 8, dtype=torch.bool)
    for frame, where in enumerate(torch.randint(7, (32, 2), generator=generator).tolist()):
        is_thing[frame, where[0] : where[0] + 2, where[1] : where[1] + 2] = True
    features = torch.where(is_thing[:, None], thing[None, :, None, None], frames)
    carry = torch.zeros(32, CARRY)
    optimizer = torch.optim.Adam(attention.parameters(), 3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        attention(features[:24], carry[:24]).recon_error.mean().backward()
        optimizer.step()
    held_out = attention(features[24:], carry[24:])
    on_thing = (held_out.maps * is_thing[24:, None]).sum((-2, -1)).mean(0)  # [S], by chance 4 / 64
    assert held_out.recon_error.mean() < 0.1
    assert on_thing.max() > 0.8


def test_features_are_a_target_not_to_be_made_easy() -> None:
    """Slots that draw a fixed picture lose as much as the features differ from it; the features do not give way."""
    attention, (features, carry) = make(), make_data()
    with torch.no_grad():
        attention.to_features.weight.zero_()
    attention(features.requires_grad_(), carry).recon_error.sum().backward()
    assert features.grad is not None  # by the shares, which sum to 1: nothing but rounding
    assert features.grad.abs().max() < 1e-5
