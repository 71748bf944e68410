"""The average of the weights: its value by hand, what plays with it, and that learning does not know of it."""

import numpy as np
import pytest
import torch
from torch import nn

from agent import Agent, make_config
from agent.learning.weight_average import WeightAverage
from tests.agent.learning.test_agent import frames, random_chunk


def averaged_after(values, decay):
    """The average once a parameter has had these values after its updates."""
    parameter = nn.Parameter(torch.tensor([99.0]))  # the initial value
    average = WeightAverage({"w": parameter}, decay)
    for updates, value in enumerate(values, 1):
        parameter.data.fill_(value)
        average.update(updates)
    return average.state_dict()["w"].item()


def test_the_first_updates_are_averaged_plainly_and_the_initial_weights_are_forgotten():
    assert averaged_after([4.0], 0.9) == pytest.approx(4.0)
    assert averaged_after([4.0, 8.0], 0.9) == pytest.approx(6.0)
    assert averaged_after([1.0, 2.0, 3.0, 6.0], 0.9) == pytest.approx(3.0)


def test_later_updates_are_averaged_exponentially():
    """With decay 1/2 the plain mean ends at the second update: then half of the new value and half of the old mean."""
    assert averaged_after([4.0, 8.0, 2.0], 0.5) == pytest.approx(4.0)
    assert averaged_after([4.0, 8.0, 2.0, 10.0], 0.5) == pytest.approx(7.0)


def test_swapped_is_undone_even_by_an_error():
    parameter = nn.Parameter(torch.tensor([4.0]))
    average = WeightAverage({"w": parameter}, 0.5)
    average.update(1)
    parameter.data.fill_(8.0)

    def fail_inside():
        with average.swapped():
            assert parameter.item() == 4.0
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()
    assert parameter.item() == 8.0
    assert average.state_dict()["w"].item() == 4.0


def test_what_is_swapped_already_stays_so():
    """As in an evaluation, or in an agent that was loaded."""
    parameter = nn.Parameter(torch.tensor([4.0]))
    average = WeightAverage({"w": parameter}, 0.5)
    average.update(1)
    parameter.data.fill_(8.0)
    average.swap()
    with average.swapped():
        assert parameter.item() == 4.0
    assert parameter.item() == 4.0
    average.swap()
    assert parameter.item() == 8.0


def small_agent(decay=0.9):
    return Agent(make_config("debug", overrides={"optimizer.average_decay": decay}), action_dim=2)


def weights_of(agent):
    return {name: parameter.detach().clone() for name, parameter in agent.named_weights()}


def test_learning_is_the_same_with_and_without_an_average():
    plain, averaged = small_agent(0.0), small_agent(0.9)
    for seed in range(3):
        for agent in (plain, averaged):
            agent.update(random_chunk(seed))
        with averaged.average.swapped():  # an evaluation in between
            averaged.act(frames(1), np.array([True]), averaged.initial_state(1), "deterministic")
    expected = weights_of(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(averaged).items())


def test_after_an_update_or_two_the_average_lies_between_the_weights():
    agent = small_agent()
    agent.update(random_chunk(0))
    first = weights_of(agent)
    agent.update(random_chunk(1))
    second = weights_of(agent)
    for name, value in agent.average.state_dict().items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-7)


def test_a_state_round_trip_keeps_weights_and_average_apart():
    agent, other = small_agent(), small_agent()
    for seed in range(2):
        agent.update(random_chunk(seed))
    other.load_state_dict(agent.state_dict())
    for a, b in ((agent, other), (agent.average, other.average)):
        mine, theirs = (weights_of(x) if isinstance(x, Agent) else x.state_dict() for x in (a, b))
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert any((weights_of(agent)[name] != value).any() for name, value in agent.average.state_dict().items())


def test_without_an_average_a_state_has_no_place_for_one():
    assert "average" not in small_agent(0.0).state_dict()


def test_the_average_collects_if_it_is_asked_to():
    """With ten times the weights the policy is another one; evaluations of the weights themselves do not change."""
    actions = {}
    for collects in (False, True):
        overrides = {"optimizer.average_decay": 0.9, "optimizer.average_collects": collects}
        agent = Agent(make_config("debug", overrides=overrides), action_dim=2)
        agent.update(random_chunk(0))  # the average of one update is its weights
        with torch.no_grad():
            for parameter in agent.actor_critic.actor.parameters():
                parameter.mul_(10.0)
        weights = weights_of(agent)
        for mode in ("collect", "sample"):
            agent.generators["act"].manual_seed(1)
            actions[mode, collects], _ = agent.act(frames(4), np.ones(4, bool), agent.initial_state(4), mode)
        assert all(torch.equal(value, weights[name]) for name, value in agent.named_weights())
    assert np.array_equal(actions["sample", False], actions["sample", True])
    assert np.array_equal(actions["sample", False], actions["collect", False])
    assert not np.allclose(actions["collect", False], actions["collect", True])


def test_an_average_that_collects_has_to_be_kept():
    with pytest.raises(ValueError, match=r"^optimizer.average_collects, average_decay: got \(True, 0\)"):
        make_config("debug", overrides={"optimizer.average_decay": 0.0, "optimizer.average_collects": True})


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_of_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"optimizer.average_decay: got .*, expected \[0, 1\)"):
        small_agent(decay)
