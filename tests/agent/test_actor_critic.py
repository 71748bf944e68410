"""Policy densities against torch.distributions; straight-through clamping; the critic's two-hot values."""

import pytest
import torch
from torch.distributions import Normal

from agent.actor_critic import ActorCritic, Policy
from agent.config import BehaviorConfig

CONFIG = BehaviorConfig(hidden_dim=16, num_layers=1, num_bins=41)


def test_policy_agrees_with_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    policy = Policy(torch.rand(5, 3, generator=generator) - 0.5, 0.1 + torch.rand(5, 3, generator=generator))
    raw, _ = policy.sample(generator)
    reference = Normal(policy.mean, policy.std)
    torch.testing.assert_close(policy.log_prob(raw), reference.log_prob(raw).sum(-1))
    bound = (1 - policy.mean.square()).log()
    torch.testing.assert_close(policy.entropy(), (reference.entropy() + bound).sum(-1), rtol=1e-4, atol=1e-5)


def test_entropy_pulls_a_mean_back_from_the_bounds():
    raw = torch.tensor([-6.0, -1.0, 0.0, 1.0, 6.0], requires_grad=True)
    Policy(torch.tanh(raw)[:, None], torch.ones(5, 1)).entropy().sum().backward()
    expected = -2 * torch.tanh(raw.detach())  # d/du ln(1 - tanh²u)
    assert raw.grad is not None
    torch.testing.assert_close(raw.grad, expected, rtol=0.1, atol=1e-6)  # the bound itself is softened by 1e-6


def test_actions_are_clamped_with_a_straight_through_gradient():
    mean = torch.full((1000, 2), 0.9, requires_grad=True)
    raw, action = Policy(mean, torch.full((1000, 2), 0.8)).sample(torch.Generator().manual_seed(0))
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
