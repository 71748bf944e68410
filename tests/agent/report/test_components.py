"""Who is in charge when: transitions, stretches and shares of made-up episodes, counted by hand."""

import numpy as np
import pytest

from agent.report.components import component_figures, next_shares, stretches, transitions

INDEX = np.array([[0, 0, 1, 1, 1, 2], [2, 0, 1, 0, 0, 0]])


def test_transitions_are_counted_within_episodes_only():
    # 0: stays 1 + 2, to 1 twice; 1: stays 2, to 2, to 0; 2: to 0. The end of the first episode leads nowhere.
    assert transitions(INDEX, 4).tolist() == [[3, 2, 0, 0], [1, 2, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_next_shares_leave_staying_out():
    shares = next_shares(transitions(INDEX, 4))
    assert shares.tolist() == [[0, 1, 0, 0], [0.5, 0, 0.5, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_stretches_end_with_their_episode():
    numbers, lengths = stretches(INDEX)
    assert numbers.tolist() == [0, 1, 2, 2, 0, 1, 0]
    assert lengths.tolist() == [2, 3, 1, 1, 1, 1, 3]


def test_components_are_told_with_their_rewards_the_most_used_first():
    rewards = np.where(INDEX == 1, 5.0, 1.0)
    found = component_figures(INDEX, rewards, 4)
    assert [x.number for x in found] == [0, 1, 2, 3]
    assert [x.share for x in found] == pytest.approx([6 / 12, 4 / 12, 2 / 12, 0])
    assert [x.reward for x in found[:3]] == [1, 5, 1]
    assert np.isnan(found[3].reward)
    assert found[0].dwell.tolist() == [2, 1, 3]


def test_the_chain_that_made_the_rows_is_recovered():
    chain = np.array([[0.8, 0.15, 0.05], [0.3, 0.5, 0.2], [0.1, 0.6, 0.3]])
    random, rows = np.random.default_rng(0), [0]
    for _ in range(10_000):
        rows.append(int(random.choice(3, p=chain[rows[-1]])))
    index = np.array([rows])
    away = chain * (1 - np.eye(3))
    np.testing.assert_allclose(next_shares(transitions(index, 3)), away / away.sum(1, keepdims=True), atol=0.05)
    numbers, lengths = stretches(index)
    assert [lengths[numbers == k].mean() for k in range(3)] == pytest.approx(1 / (1 - chain.diagonal()), rel=0.05)
