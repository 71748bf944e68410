"""Policies against torch.distributions; straight-through gradients; the critic's two-hot values."""

import pytest
import torch
from torch.distributions import Normal, OneHotCategorical, OneHotCategoricalStraightThrough

from agent.config.settings import BehaviorConfig
from agent.learning.actor_critic import ActorCritic
from agent.learning.policies import Categorical, Gaussian

CONFIG = BehaviorConfig(hidden_dim=16, num_layers=1, num_bins=41)


def test_policy_agrees_with_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    policy = Gaussian(torch.rand(5, 3, generator=generator) - 0.5, 0.1 + torch.rand(5, 3, generator=generator))
    raw, _ = policy.sample(generator)
    reference = Normal(policy.mean, policy.std)
    torch.testing.assert_close(policy.log_prob(raw), reference.log_prob(raw).sum(-1))
    bound = (1 - policy.mean.square()).log()
    torch.testing.assert_close(policy.entropy(), (reference.entropy() + bound).sum(-1), rtol=1e-4, atol=1e-5)


def test_entropy_pulls_a_mean_back_from_the_bounds():
    raw = torch.tensor([-6.0, -1.0, 0.0, 1.0, 6.0], requires_grad=True)
    Gaussian(torch.tanh(raw)[:, None], torch.ones(5, 1)).entropy().sum().backward()
    expected = -2 * torch.tanh(raw.detach())  # d/du ln(1 - tanh²u)
    assert raw.grad is not None
    torch.testing.assert_close(raw.grad, expected, rtol=0.1, atol=1e-6)  # the bound itself is softened by 1e-6


def test_actions_are_clamped_with_a_straight_through_gradient():
    mean = torch.full((1000, 2), 0.9, requires_grad=True)
    raw, action = Gaussian(mean, torch.full((1000, 2), 0.8)).sample(torch.Generator().manual_seed(0))
    assert raw.abs().max() > 1
    torch.testing.assert_close(action.detach(), raw.detach().clamp(-1, 1), rtol=0, atol=1e-6)
    action.sum().backward()
    assert mean.grad is not None
    assert (mean.grad == 1).all()  # beyond the bound too


def test_actor_starts_neutral_and_its_std_stays_in_range():
    torch.manual_seed(0)
    networks = ActorCritic(8, 2, CONFIG)
    policy = networks.actor(torch.randn(100, 8))
    assert policy.mean.abs().max() < 0.1
    assert (policy.std > 0.85).all()
    extreme = networks.actor(1e4 * torch.randn(100, 8))
    assert (extreme.std >= CONFIG.min_std).all()
    assert (extreme.std <= 1).all()


def test_categorical_agrees_with_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(5, 3, generator=generator).log_softmax(-1)
    policy, reference = Categorical(log_probs), OneHotCategorical(logits=log_probs)
    raw, action = policy.sample(generator)
    assert torch.equal(raw, action)
    torch.testing.assert_close(policy.log_prob(raw), reference.log_prob(raw))
    torch.testing.assert_close(policy.entropy(), reference.entropy())
    assert torch.equal(policy.mode, reference.mode)


def test_categorical_samples_come_as_often_as_they_should():
    probs = torch.tensor([0.05, 0.15, 0.8])
    raw, _ = Categorical(probs.log().expand(20_000, 3)).sample(torch.Generator().manual_seed(0))
    assert torch.equal(raw.sum(-1), torch.ones(20_000))
    torch.testing.assert_close(raw.mean(0), probs, rtol=0, atol=5 * 0.4 / 20_000**0.5)


def test_a_categorical_sample_is_a_function_of_its_noise():
    policy = Categorical(torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).log_softmax(-1))
    noise = policy.draw_noise((50, 4), policy.log_probs, torch.Generator().manual_seed(7))
    assert torch.equal(policy.sample(noise=noise)[0], policy.sample(torch.Generator().manual_seed(7))[0])


def test_categorical_actions_have_the_gradient_of_their_probabilities():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    found, expected = (
        torch.autograd.grad((weights * action).sum(), logits)[0]
        for action in (
            Categorical(logits.log_softmax(-1)).sample()[1],
            OneHotCategoricalStraightThrough(logits=logits).rsample(),
        )
    )
    torch.testing.assert_close(found, expected)


def test_categorical_actor_starts_neutral_and_never_rules_an_action_out():
    torch.manual_seed(0)
    networks = ActorCritic(8, 4, CONFIG, is_discrete=True)
    probs = networks.actor(torch.randn(100, 8)).log_probs.exp()
    assert (probs - 0.25).abs().max() < 0.02
    with torch.no_grad():
        networks.actor.net[-1].weight.mul_(1e4)
    probs = networks.actor(torch.randn(100, 8)).log_probs.exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(100))
    torch.testing.assert_close(probs.min(), torch.tensor(0.01 / 4))  # 1 % of chance, shared by four


def test_exploring_replaces_a_share_of_the_choices():
    chosen = torch.eye(4)[0].expand(20_000, 4)
    policy = Categorical(torch.zeros(20_000, 4).log_softmax(-1))
    explored = policy.explore(chosen, 0.4, torch.Generator().manual_seed(0))
    expected = torch.tensor([0.7, 0.1, 0.1, 0.1])  # a quarter of the replaced ones stay as they were
    torch.testing.assert_close(explored.mean(0), expected, rtol=0, atol=5 * 0.5 / 20_000**0.5)
    assert torch.equal(explored.sum(-1), torch.ones(20_000))


def test_critic_starts_at_zero_and_learns_a_value():
    torch.manual_seed(0)
    networks = ActorCritic(4, 1, CONFIG)
    features = torch.randn(32, 4)
    assert (networks.critic.value(features) == 0).all()
    optimizer = torch.optim.Adam(networks.critic.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        networks.critic.nll(features, torch.full((32,), 37.0)).mean().backward()
        optimizer.step()
    assert networks.critic.value(features).mean().item() == pytest.approx(37.0, rel=0.02)


def test_slow_critic_moves_by_one_minus_decay():
    networks = ActorCritic(4, 1, CONFIG)
    with torch.no_grad():
        for parameter in networks.critic.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in networks.slow_critic.parameters()]
    networks.update_slow_critic()
    for old, new in zip(before, networks.slow_critic.parameters(), strict=True):
        torch.testing.assert_close(new - old, torch.full_like(old, 0.02))
