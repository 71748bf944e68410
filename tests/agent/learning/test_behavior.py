"""Learning in imagination: who gets gradients, and that both estimators find the best action of a known dream."""

import pytest
import torch

from agent.config.presets import make_config
from agent.config.settings import BehaviorConfig, OptimizerConfig
from agent.learning.actor_critic import ActorCritic
from agent.learning.behavior_learner import BehaviorLearner, ReplayTargets, frozen
from world_model import DPGMMVariationalRecurrentAutoencoder


def small_model(action_dim=2):
    torch.manual_seed(0)
    settings = vars(make_config("debug").world_model) | {"action_dim": action_dim}
    return DPGMMVariationalRecurrentAutoencoder(**settings)


def start_states(model, count):
    memory = model.initial(count)
    latent = torch.randn(count, model.config.latent_dim, generator=torch.Generator().manual_seed(1))
    return model._state(memory.hidden, memory.cell, latent).map(torch.Tensor.detach)


class ActionReward(torch.nn.Module):
    """Pays for the first latent: r = z_0. The transition below makes z_0 the first action."""

    def predict(self, features):
        return features[..., -self.latent_dim]


@pytest.fixture
def arranged():
    """A world model whose next latent is the action itself and whose reward is its first entry: the best is a_0 = 1."""
    model = small_model()
    reward = ActionReward()
    reward.latent_dim = model.config.latent_dim
    model.reward_head = reward

    def imagine_step(state, action, noise):
        latent = torch.cat([action, torch.zeros(len(action), model.config.latent_dim - 2)], -1)
        return state._replace(latent=latent)

    model.imagine_step = imagine_step
    return model


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_actor_finds_the_action_that_pays(arranged, gradient):
    config = BehaviorConfig(hidden_dim=16, num_layers=1, horizon=2, gradient=gradient)
    networks = ActorCritic(arranged.config.feature_dim, 2, config)
    learner = BehaviorLearner(arranged, networks, config, OptimizerConfig(actor_lr=1e-2, critic_lr=1e-2))
    start, generator = start_states(arranged, 64), torch.Generator().manual_seed(2)
    for _ in range(40):
        metrics = learner.update(start, torch.ones(64), generator)
    mean = networks.actor(start.features).mean
    assert mean[:, 0].mean() > 0.7
    if gradient == "dynamics":  # the other action pays nothing; REINFORCE's noise moves it all the same
        assert mean[:, 1].abs().mean() < 0.5
    assert metrics["dream_reward"] > 0.5


def choosing_model():
    """A world model that pays for the choice that z_1..z_3 name with their largest: z_0 = action[largest], r = z_0."""
    model = small_model(action_dim=3)
    reward = ActionReward()
    reward.latent_dim = model.config.latent_dim
    model.reward_head = reward

    def imagine_step(state, action, noise):
        named = state.latent[:, 1:4].argmax(-1, keepdim=True)
        latent = torch.cat([action.gather(-1, named), state.latent[:, 1:]], -1)
        return state._replace(latent=latent)

    model.imagine_step = imagine_step
    return model


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_discrete_actor_finds_the_choice_that_pays_in_every_state(gradient):
    model = choosing_model()
    config = BehaviorConfig(hidden_dim=32, num_layers=1, horizon=2, gradient=gradient)
    networks = ActorCritic(model.config.feature_dim, 3, config, is_discrete=True)
    learner = BehaviorLearner(model, networks, config, OptimizerConfig(actor_lr=1e-2, critic_lr=1e-2))
    start, generator = start_states(model, 128), torch.Generator().manual_seed(2)
    named = start.latent[:, 1:4].argmax(-1)
    assert named.bincount(minlength=3).min() > 20  # each choice is the right one in some states
    for _ in range(60):
        metrics = learner.update(start, torch.ones(128), generator)
    is_right = networks.actor(start.features).mode.argmax(-1) == named
    assert is_right.float().mean() > 0.9
    assert metrics["dream_reward"] > 0.8  # chance gets a third
    assert metrics["actor_top_probability"] > 0.8


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
@pytest.mark.parametrize("is_discrete", [False, True])
def test_the_world_model_gets_no_gradient_and_stays_trainable(gradient, is_discrete):
    model = small_model()
    config = BehaviorConfig(hidden_dim=16, num_layers=1, horizon=3, gradient=gradient)
    networks = ActorCritic(model.config.feature_dim, 2, config, is_discrete)
    learner = BehaviorLearner(model, networks, config, OptimizerConfig(actor_lr=1e-3, critic_lr=1e-3))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    actor_before = [p.detach().clone() for p in networks.actor.parameters()]
    for _ in range(2):  # the zero-initialised critic passes no gradient at the first one
        metrics = learner.update(start_states(model, 8), torch.ones(8), torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        assert parameter.grad is None, name
        assert torch.equal(parameter, before[name]), name
    assert all(p.requires_grad for p in model.prior.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(actor_before, networks.actor.parameters(), strict=True))
    assert all(torch.isfinite(value).all() for value in metrics.values())


@pytest.mark.parametrize(("is_discrete", "gradient"), [(False, "dynamics"), (True, "reinforce")])
def test_auto_takes_the_gradient_through_the_dream_for_continuous_actions_alone(is_discrete, gradient):
    weights = {}
    for chosen in ("auto", "dynamics", "reinforce"):
        torch.manual_seed(0)
        model, config = small_model(), BehaviorConfig(hidden_dim=16, num_layers=1, horizon=3, gradient=chosen)
        networks = ActorCritic(model.config.feature_dim, 2, config, is_discrete)
        learner = BehaviorLearner(model, networks, config, OptimizerConfig(actor_lr=1e-2, critic_lr=1e-2))
        for _ in range(2):
            learner.update(start_states(model, 8), torch.ones(8), torch.Generator().manual_seed(0))
        weights[chosen] = torch.cat([p.detach().flatten() for p in networks.actor.parameters()])
    assert torch.equal(weights["auto"], weights[gradient])
    assert not torch.allclose(weights["dynamics"], weights["reinforce"])


def test_frozen_restores_flags_after_an_error():
    model = small_model()
    flags = [p.requires_grad for p in model.parameters()]
    seen = []

    def fail():
        with frozen(model):
            seen.extend(p.requires_grad for p in model.parameters())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any(seen)
    assert [p.requires_grad for p in model.parameters()] == flags


def test_a_terminal_root_teaches_nothing():
    model = small_model()
    config = BehaviorConfig(hidden_dim=16, num_layers=1, horizon=3)
    networks = ActorCritic(model.config.feature_dim, 2, config)
    learner = BehaviorLearner(model, networks, config, OptimizerConfig(actor_lr=1e-2, critic_lr=1e-2))
    before = [p.detach().clone() for p in networks.actor.parameters()]
    learner.update(start_states(model, 8), torch.zeros(8), torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(before, networks.actor.parameters(), strict=True))


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0.0), (0.3, 2.5)])
def test_the_critic_learns_what_was_really_played(weight, expected):
    """Dreams from terminal roots teach nothing, so the critic learns v = r + γ v = 2 / (1 - 0.2) of the played rows."""
    model = small_model()
    config = BehaviorConfig(hidden_dim=16, num_layers=1, horizon=1, gamma=0.2, replay_value=weight)
    networks = ActorCritic(model.config.feature_dim, 2, config)
    learner = BehaviorLearner(model, networks, config, OptimizerConfig(critic_lr=6e-2))
    start, generator = start_states(model, 12), torch.Generator().manual_seed(0)
    features = start.features.unflatten(0, (4, 3))
    flags = torch.zeros(4, 3, dtype=torch.bool)
    played = ReplayTargets(features, torch.full((4, 3), 2.0), flags, flags)
    for _ in range(120):
        metrics = learner.update(start, torch.zeros(12), generator, played)
    values = networks.critic.value(features[:, :-1])
    torch.testing.assert_close(values, torch.full_like(values, expected), atol=0.1, rtol=0)
    assert ("replay_value_loss" in metrics) == (weight > 0)


def test_a_broken_dream_leaves_actor_critic_and_scale_whole():
    model = small_model()
    config = BehaviorConfig(hidden_dim=16, num_layers=1, horizon=3)
    networks = ActorCritic(model.config.feature_dim, 2, config)
    learner = BehaviorLearner(model, networks, config, OptimizerConfig(actor_lr=1e-2, critic_lr=1e-2))
    start = start_states(model, 8)
    broken = start._replace(latent=start.latent * torch.nan)
    metrics = learner.update(broken, torch.ones(8), torch.Generator().manual_seed(0))
    assert metrics["behavior_skipped"] == 1
    assert all(torch.isfinite(value).all() for value in networks.state_dict().values())
    assert learner.update(start, torch.ones(8), torch.Generator().manual_seed(0))["behavior_skipped"] == 0
