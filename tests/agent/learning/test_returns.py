"""Lambda-returns, dream weights and the return scale against hand calculations and brute force."""

import numpy as np
import pytest
import torch

from agent.learning.returns import ReturnScale, dream_weights, lambda_returns, played_returns


def n_step_mixture(rewards, continues, values, gamma, lambd):
    """The textbook definition: a (1-λ)λ^{n-1} mixture of n-step returns, written without recursion."""
    horizon = len(rewards)
    result = []
    for t in range(horizon):
        total, weight_left = 0.0, 1.0
        for n in range(1, horizon - t + 1):
            discount, n_step = 1.0, 0.0
            for k in range(n):
                n_step += discount * rewards[t + k]
                discount *= gamma * continues[t + k]
            n_step += discount * values[t + n]
            share = weight_left if t + n == horizon else weight_left * (1 - lambd)
            total += share * n_step
            weight_left -= share
        result.append(total)
    return result


@pytest.mark.parametrize("lambd", [0.0, 0.5, 0.95, 1.0])
def test_lambda_returns_are_the_mixture_of_n_step_returns(lambd):
    rng = np.random.default_rng(0)
    rewards, continues, values = rng.normal(size=(3, 6)), rng.uniform(0, 1, (3, 6)), rng.normal(size=(3, 7))
    found = lambda_returns(*(torch.from_numpy(x) for x in (rewards, continues, values)), gamma=0.9, lambd=lambd)
    for row in range(3):
        expected = n_step_mixture(rewards[row], continues[row], values[row], 0.9, lambd)
        np.testing.assert_allclose(found[row], expected, rtol=1e-12)


def test_two_steps_by_hand():
    found = lambda_returns(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[9.0, 10.0, 20.0]]), gamma=0.5, lambd=0.5
    )
    last = 2 + 0.5 * 20  # V_1 = r_2 + γ v_2 = 12
    first = 1 + 0.5 * (0.5 * 10 + 0.5 * last)  # V_0 = r_1 + γ [(1-λ) v_1 + λ V_1] = 6.5
    assert found.tolist() == [[first, last]]


def test_nothing_after_an_end_counts():
    rewards, values = torch.tensor([[1.0, 5.0, 7.0]]), torch.tensor([[0.0, 3.0, 4.0, 100.0]])
    found = lambda_returns(rewards, torch.tensor([[0.0, 1.0, 1.0]]), values, gamma=0.99, lambd=0.95)
    assert found[0, 0] == 1.0


def played_row(**changes):
    """Four rows of one episode, t = 0..3, as arguments of played_returns."""
    row = {"rewards": [7.0, 1.0, 2.0, 3.0], "is_first": [False] * 4, "is_terminal": [False] * 4}
    row |= {"values": [10.0, 20.0, 30.0, 40.0]} | changes
    return {name: torch.tensor([value]) for name, value in row.items()} | {"gamma": 0.5, "lambd": 0.5}


def test_played_returns_by_hand():
    returns, has_return = played_returns(**played_row())
    last = 3 + 0.5 * 40  # the reward of row 0 arrived before its state: it counts nowhere
    middle = 2 + 0.5 * (0.5 * 30 + 0.5 * last)
    first = 1 + 0.5 * (0.5 * 20 + 0.5 * middle)
    assert returns.tolist() == [[first, middle, last]]
    assert has_return.all()


def test_played_returns_end_with_a_terminal_row():
    returns, _ = played_returns(**played_row(is_terminal=[False, False, True, False]))
    assert returns[0, 1] == 2.0  # neither the value of row 2 nor anything after it
    assert returns[0, 0] == 1 + 0.5 * (0.5 * 20 + 0.5 * 2)


def test_played_returns_do_not_look_into_the_next_episode():
    cut = {"is_first": [False, False, True, False], "rewards": [7.0, 1.0, 0.0, 3.0]}
    returns, has_return = played_returns(**played_row(**cut))
    assert has_return.tolist() == [[True, False, True]]
    assert returns[0, 0] == 1 + 0.5 * 20  # row 1 was the last: its value stands for what a time limit cut off
    assert returns[0, 2] == 3 + 0.5 * 40
    others, _ = played_returns(**played_row(**cut, values=[10.0, 20.0, -99.0, -99.0]))
    assert others[0, 0] == returns[0, 0]


def test_dream_weights_start_with_the_real_root():
    weights = dream_weights(torch.tensor([1.0, 0.0]), torch.tensor([[0.5, 0.25, 0.1], [1.0, 1.0, 1.0]]), gamma=0.8)
    # w_0 = n_0, w_1 = w_0 γ n_1, w_2 = w_1 γ n_2; the last continue flag weighs nothing inside the horizon
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.4, 0.4 * 0.8 * 0.25], [0.0, 0.0, 0.0]]))


def test_return_scale_follows_the_percentile_range_and_never_falls_below_one():
    scale = ReturnScale(decay=0.9)
    wide = torch.linspace(0.0, 100.0, 1001)
    assert scale(wide).item() == pytest.approx(90.0, rel=1e-5)  # P95 - P5, without a bias towards 0 at the first call
    assert scale(torch.zeros(10)).item() == pytest.approx(90.0 * 0.9 * 0.1 / (1 - 0.9**2), rel=1e-4)
    narrow = ReturnScale(decay=0.9)
    assert narrow(torch.linspace(0.0, 0.1, 11)).item() == 1.0
