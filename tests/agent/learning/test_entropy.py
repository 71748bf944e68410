"""The entropy's weight: constant, or following a target std."""

import math

import pytest
import torch

from agent.config.presets import make_config
from agent.learning.entropy import RATE, EntropyBonus
from agent.learning.policies import Gaussian
from tests.agent.learning.small_agent import make_agent, make_chunk


def bonus(**settings: object) -> EntropyBonus:
    return EntropyBonus(make_config("debug", "reaching", {f"behavior.{k}": v for k, v in settings.items()}).behavior)


def policy(std: float, mean: float = 0.0) -> Gaussian:
    return Gaussian(torch.full((4, 2), mean), torch.full((4, 2), std))


def test_without_a_target_it_is_the_weighted_entropy_and_has_no_state() -> None:
    made = bonus(entropy=0.01)
    expected = 0.01 * 2 * (math.log(0.5) + 0.5 * math.log(2 * math.pi * math.e))
    torch.testing.assert_close(made(policy(0.5), policy(0.5).entropy()), torch.full((4,), expected))
    assert made.follow(policy(0.5), 0) == {}
    assert not made.state_dict()


def test_the_spread_has_the_moving_weight_and_the_rest_the_constant_one() -> None:
    made = bonus(entropy=0.01, target_std=0.4)
    made.log_weight.fill_(math.log(0.2))
    rest = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(1 - 0.25))
    expected = 0.2 * 2 * math.log(0.5) + 0.01 * rest
    found = made(policy(0.5, 0.5), policy(0.5, 0.5).entropy())
    torch.testing.assert_close(found, torch.full((4,), expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("std", "direction"), [(0.2, 1), (0.8, -1), (0.4, 0)])
def test_the_weight_rises_below_the_target_and_falls_above_it(std: float, direction: int) -> None:
    made = bonus(target_std=0.4)
    before = made.log_weight.item()
    made.follow(policy(std), 0)
    assert made.log_weight.item() - before == pytest.approx(RATE * math.log(0.4 / std), abs=1e-6)
    assert (made.log_weight.item() > before + 1e-6) == (direction > 0)


def test_a_target_on_a_schedule_is_that_of_the_update() -> None:
    made = bonus(target_std=[[0, 0.6], [100, 0.2]])
    before = made.log_weight.item()
    made.follow(policy(0.4), 50)  # half way the target is 0.4
    assert made.log_weight.item() == pytest.approx(before, abs=1e-6)


def test_a_policy_that_is_not_finite_leaves_the_weight() -> None:
    made = bonus(target_std=0.4)
    before = made.log_weight.item()
    made.follow(policy(float("nan")), 0)
    assert made.log_weight.item() == before


def test_the_std_settles_at_the_target_against_a_pull() -> None:
    """An objective that is best at ln σ = -3, with slope 0.1 (ln σ + 3), is held at the target's std."""
    made, raw = bonus(target_std=0.3), torch.zeros(1, 1, requires_grad=True)
    optimizer = torch.optim.SGD([raw], lr=0.05)
    for update in range(4000):
        current = Gaussian(torch.zeros(1, 1), raw.exp())
        loss = (0.05 * (raw + 3).square() - made(current, current.entropy())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.follow(current, update)
    assert raw.exp().item() == pytest.approx(0.3, rel=0.05)
    assert made.log_weight.exp().item() == pytest.approx(0.1 * (math.log(0.3) + 3), rel=0.05)  # it balances the pull


def test_an_agent_saves_and_restores_the_weight() -> None:
    settings = {"behavior__target_std": 0.4, "behavior__min_std": 0.1}
    agent, other = make_agent(**settings), make_agent(**settings)
    metrics = agent.update(make_chunk(2, 4))
    assert metrics["entropy_weight"] == agent.actor_critic.entropy_bonus.log_weight.exp()
    other.load_state_dict(agent.state_dict())
    weights = [x.actor_critic.entropy_bonus.log_weight for x in (agent, other)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("target", [0.05, 1.0, [[0, 0.6], [100, 0.1]]])
def test_a_target_outside_of_the_policys_range_names_both(target: object) -> None:
    with pytest.raises(ValueError, match=r"behavior\.target_std, min_std: got .* and 0\.1, expected values above"):
        make_config("debug", "reaching", {"behavior.target_std": target, "behavior.min_std": 0.1})


def test_discrete_actions_have_no_std() -> None:
    config = make_config("debug", "reaching", {"behavior.target_std": 0.4})
    with pytest.raises(ValueError, match=r"behavior\.target_std: got 0\.4, expected 0 for discrete actions"):
        EntropyBonus(config.behavior, is_discrete=True)
