"""Tokenizer: cells keep their place, vectors have unit scale."""

import torch

from world_model.perceiver_io import Tokenizer


def test_vectors_are_per_cell_in_row_order_and_of_mean_square_one() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(6, code_dim=16)
    features = torch.randn(2, 6, 8, 8)
    vectors = tokenizer.encode(features)
    assert vectors.shape == (2, 64, 16)
    torch.testing.assert_close(vectors.square().mean(-1), torch.ones(2, 64), rtol=1e-4, atol=0)
    changed = features.clone()
    changed[1, :, 2, 5] += 1.0
    is_changed = (tokenizer.encode(changed) != vectors).any(-1)
    assert is_changed.nonzero().tolist() == [[1, 2 * 8 + 5]]


def test_each_token_paints_its_own_patch() -> None:
    torch.manual_seed(0)
    tokenizer = Tokenizer(6, code_dim=16)
    values = torch.randn(3, 64, 16)
    frames = tokenizer.decode(values)
    assert frames.shape == (3, 3, 64, 64)
    changed = values.clone()
    changed[2, 3 * 8 + 6] += 1.0
    is_changed = (tokenizer.decode(changed) != frames).any(1)  # [3, 64, 64]
    assert is_changed[2, 24:32, 48:56].all()
    assert int(is_changed.sum()) == 64
    patch = (tokenizer.patch.weight @ values[0, 0] + tokenizer.patch.bias).view(3, 8, 8)
    torch.testing.assert_close(frames[0, :, :8, :8], patch)
