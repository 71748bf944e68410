"""Pictures of tokens and slots, by hand."""

import numpy as np
import torch

from agent import Agent, make_config
from agent.report.pictures import attention_picture, most_used_tokens, token_shares
from agent.video.dreams import to_pictures
from agent.video.picture import palette


def test_shares_of_tokens_count_cells_or_their_weights():
    tokens = torch.tensor([[0, 2, 2], [2, 0, 3]])
    assert token_shares(tokens, 5).tolist() == [2 / 6, 0, 3 / 6, 1 / 6, 0]
    weights = torch.tensor([[1.0, 0, 0], [0, 3, 4]])
    assert token_shares(tokens, 5, weights).tolist() == [0.5, 0, 0, 0.5, 0]


def test_tokens_stand_beside_the_mean_of_what_they_stood_for():
    agent = Agent(make_config("debug", "counting"), action_dim=2)
    tokens = torch.zeros(2, 3, 8, 8, dtype=torch.long)
    tokens[:, :, 1, 2] = 5  # always there
    tokens[0, 0, 7, 7] = 9  # once, where something is seen once
    frames = torch.zeros(2, 3, 3, 64, 64)
    frames[..., 8:16, 16:24] = 0.6
    frames[0, 0, :, 56:, 56:] = 1.0
    found = {token.number: token for token in most_used_tokens(agent, tokens, frames, 4)}
    assert list(found) == [0, 5, 9]  # two by use, then what explains most of what differs
    assert (found[5].cell, found[9].cell) == ((1, 2), (7, 7))
    assert (found[5].mean == round(0.6 * 255)).all()
    assert (found[9].mean == 255).all()
    tokenizer = agent.model.perceiver.tokenizer
    values = tokenizer.quantizer.codebook[tokens[0, 0].flatten()][None]
    with torch.no_grad():
        whole = to_pictures(agent.model.frame_norm.restore(tokenizer.decode(values)))[0]
    np.testing.assert_array_equal(found[5].decoded, whole[8:16, 16:24])


def test_owners_have_their_slots_colour_and_maps_are_bright_at_their_maximum():
    shares, maps = torch.zeros(1, 2, 8, 8), torch.full((1, 2, 8, 8), 0.001)
    shares[0, 0], shares[0, 1, :4] = 1.0, 1.0
    shares[0, 0, :4] = 0.0
    maps[0, 0, 0, 0] = maps[0, 1, 7, 7] = 0.9
    picture = attention_picture(torch.ones(1, 3, 64, 64), shares, maps, maps)
    assert picture.shape == (6 * 66 - 2, 64, 3)
    colours = palette(2).astype(float)
    np.testing.assert_allclose(picture[66 + 10, 10], 127.5 + colours[1] / 2, atol=1)
    np.testing.assert_allclose(picture[66 + 60, 10], 127.5 + colours[0] / 2, atol=1)
    first, second = picture[2 * 66 :][:64], picture[4 * 66 :][:64]
    assert (first[0, 0].min(), second[63, 63].min()) == (255, 255)
    assert max(first[63, 63].max(), second[0, 0].max()) < 60
