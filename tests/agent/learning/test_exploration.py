"""Exploration: noise of an amount, methods of a user's own, and what novelty pays in dreams."""

import numpy as np
import pytest
import torch
from torch import nn

from agent import Trainer, load, make_config
from agent.config.settings import BehaviorConfig
from agent.learning.exploration import EXPLORATIONS, ActionNoise, Exploration
from agent.run_folder.checkpoint import load_newest
from tests.agent.learning.small_agent import make_agent, make_chunk


def test_the_share_of_random_choices_is_a_share():
    config = BehaviorConfig(action_noise=1.5)
    with pytest.raises(ValueError, match=r"^behavior.action_noise: got 1.5, expected \[0, 1\][^\n]*$"):
        ActionNoise(config, 4, 2, is_discrete=True)
    ActionNoise(config, 4, 2, is_discrete=False)  # a std


def test_an_unknown_method_is_one_line_that_names_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown exploration method 'noisy'[^\n]*'noise'[^\n]*$"):
        make_agent(behavior__exploration="noisy")


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch):
    """A registry to add to, as it was afterwards."""
    before = dict(EXPLORATIONS)
    yield EXPLORATIONS
    EXPLORATIONS.clear()
    EXPLORATIONS.update(before)


class Novelty(Exploration):
    """Random network distillation: frames whose features a network cannot predict yet are rewarded."""

    def __init__(self, config, feature_dim, action_dim, is_discrete):
        super().__init__(config, feature_dim, action_dim, is_discrete)
        self.target, self.guess = nn.Linear(feature_dim, 16), nn.Linear(feature_dim, 16)
        self.optimizer = torch.optim.Adam(self.guess.parameters(), lr=0.01)

    def error(self, features):
        return (self.guess(features) - self.target(features).detach()).square().mean(-1)

    def intrinsic_reward(self, features, actions):
        assert actions.abs().max() <= 1
        return self.error(features[:, 1:])

    def learn(self, features, actions, is_first):
        loss = self.error(features).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"novelty": loss.detach()}


def test_a_method_of_ones_own_learns_pays_and_comes_back_from_a_checkpoint(methods, tmp_path):
    methods.register("novelty", Novelty)
    changes = {"behavior.exploration": "novelty", "env_frames": 70, "replay.prefill_frames": 52}
    trainer = Trainer(make_config("debug", "counting", changes), tmp_path, quiet=True)
    trainer.run()
    saved = load_newest(tmp_path / "checkpoints")[0]["agent"]
    assert set(saved["exploration"]) == {f"{net}.{part}" for net in ("target", "guess") for part in ("weight", "bias")}
    found = load(tmp_path, "cpu").exploration
    for name, value in trainer.agent.exploration.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    moments = saved["exploration_optimizer"]["state"]
    assert moments[0]["step"] == trainer.agent.updates
    assert torch.equal(found.optimizer.state_dict()["state"][0]["exp_avg"], moments[0]["exp_avg"])


def test_dreams_leave_the_methods_networks_alone(methods):
    methods.register("novelty", Novelty)
    agent = make_agent(behavior__exploration="novelty", behavior__gradient="dynamics")
    agent.exploration.learn = lambda *_: {}
    before = {name: value.clone() for name, value in agent.exploration.state_dict().items()}
    agent.update(make_chunk(4, 8))
    assert all(parameter.grad is None for parameter in agent.exploration.parameters())
    assert all(torch.equal(value, before[name]) for name, value in agent.exploration.state_dict().items())


def test_novelty_falls_where_it_was_seen_and_is_part_of_the_dreams_reward(methods):
    methods.register("novelty", Novelty)
    agent, chunk = make_agent(behavior__exploration="novelty", optimizer__model_lr=0.0), make_chunk(2, 4)
    found = [agent.update(chunk)["novelty"].item() for _ in range(30)]
    assert found[-1] < 0.8 * found[0]
    plain = make_agent(optimizer__model_lr=0.0)
    assert agent.update(chunk)["dream_reward"] > plain.update(chunk)["dream_reward"]


def test_actions_are_changed_while_collecting_only(methods):
    class Still(Exploration):
        def act(self, policy, action, generator=None):
            return torch.zeros_like(action)

    methods.register("still", Still)
    agent = make_agent(behavior__exploration="still")
    images, first = np.zeros((2, 64, 64, 3), np.uint8), np.ones(2, bool)
    actions = {mode: agent.act(images, first, agent.initial_state(2), mode)[0] for mode in ("collect", "sample")}
    assert not actions["collect"].any()
    assert actions["sample"].any()
