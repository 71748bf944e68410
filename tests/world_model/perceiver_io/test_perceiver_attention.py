"""Attention blocks against the textbook form, rotary angles, and the mask against its definition."""

import pytest
import torch
from torch import nn

from world_model.perceiver_io.attention import QueryAttention, causal_window_mask, rotary_angles, rotate


@pytest.mark.parametrize(("num_queries", "num_tokens"), [(3, 10), (10, 3), (1, 1)])
def test_folded_attention_equals_the_textbook_order(num_queries: int, num_tokens: int) -> None:
    torch.manual_seed(0)
    attention = QueryAttention(num_queries, num_tokens, token_dim=6, width=8, num_heads=2, out_dim=5).double()
    nn.init.normal_(attention.bias)
    tokens = torch.randn(4, num_tokens, 6, dtype=torch.double)
    reference = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True, dtype=torch.double, bias=False)
    with torch.no_grad():
        reference.q_proj_weight.copy_(attention.to_query.weight)
        reference.k_proj_weight.copy_(attention.to_key.weight)
        reference.v_proj_weight.copy_(attention.to_value.weight)
        reference.out_proj.weight.copy_(torch.eye(8))
    normed = nn.functional.layer_norm(tokens, (6,))
    queries = nn.functional.layer_norm(attention.queries, (8,)).expand(4, -1, -1)
    mixed, _ = reference(queries, normed, normed)
    expected = mixed @ attention.to_out.weight.T + attention.bias
    torch.testing.assert_close(attention(tokens), expected, rtol=1e-10, atol=1e-10)


def test_rotated_products_depend_on_the_difference_of_places_only() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 16, dtype=torch.double)
    angles = rotary_angles(50, 16, torch.device("cpu")).double()
    products = rotate(query.expand(50, -1), angles) @ rotate(key.expand(50, -1), angles).T  # [50, 50]
    for age in (0, 1, 7, 30):
        diagonal = products.diagonal(-age)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)
    assert products[:, 0].std() > 0.05  # and they do depend on it
    torch.testing.assert_close(products[0, 0], (query @ key.T).squeeze())


def test_mask_by_definition() -> None:
    is_first = torch.tensor([[False, False, True, False, False, False], [True, False, False, False, True, True]])
    window = 3
    mask = causal_window_mask(is_first, window)
    assert mask.shape == (2, 1, 6, 6)
    for row in range(2):
        for t in range(6):
            for s in range(6):
                crosses = s < t and bool(is_first[row, s + 1 : t + 1].any())
                assert bool(mask[row, 0, t, s]) == (s <= t and t - s < window and not crosses), (row, t, s)
