"""The second trunk: what it sees, what trains it, and that the posterior reads it."""

import pytest
import torch

from tests.world_model.small_model import make_model, make_sample, rng, training_losses
from world_model.motion import GAIN

MOTION = {"encoder_config": {"motion_dim": 8}}


def test_a_frame_that_stays_has_no_change() -> None:
    motion = make_model(**MOTION).motion
    assert motion is not None
    seen = []
    motion.trunk.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    newer, older = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    motion(torch.cat([newer, older], 1))
    torch.testing.assert_close(seen[0], torch.cat([newer, GAIN * (newer - older)], 1))
    motion(torch.cat([newer, newer], 1))
    assert not seen[1][:, 3:].any()


def test_rewards_alone_train_it() -> None:
    model, sample = make_model(**MOTION), make_sample(resets=(0, 3))
    assert model.motion is not None
    torch.nn.init.normal_(model.motion.head.net[-1].weight)  # zero at first: nothing would reach the trunk
    losses, output = training_losses(model, sample, rng())
    weights = list(model.motion.trunk.parameters())
    of_reward = torch.autograd.grad(losses["motion_nll"], weights, retain_graph=True)
    assert all(gradient.any() for gradient in of_reward)
    others = sum(loss.mean() for name, loss in output.losses.items() if name != "motion_nll")
    assert all(x is None for x in torch.autograd.grad(others, weights, retain_graph=True, allow_unused=True))
    (to_posterior,) = torch.autograd.grad(output.losses["recon_loss"].mean(), model.motion.to_posterior.parameters())
    assert to_posterior.any()  # what the posterior makes of it is learned from everything


def test_the_posterior_reads_the_frame_before() -> None:
    """The posterior alone, without the carry, at the second index: other frames before, another mean."""
    sample, changes = make_sample(), {"encoder_config": {"motion_dim": 8, "uses_carry": False}}
    other = sample.observations.clone()
    other[:, 0] = 1 - other[:, 0]
    for motion_dim, is_read in ((8, True), (None, False)):
        changes["encoder_config"]["motion_dim"] = motion_dim
        model = make_model(perceiver_config={"enabled": False}, **changes).eval()
        means = []
        for frames in (sample.observations, other):
            model.frame_norm.initialise(sample.observations.flatten(0, 1))
            means.append(model.observe(frames, sample.actions, sample.is_first, sample=False).mean[:, 1])
        assert (not torch.equal(*means)) == is_read


def test_the_action_of_another_episode_is_not_read() -> None:
    motion = make_model(**MOTION).motion
    assert motion is not None
    torch.nn.init.normal_(motion.head.net[-1].weight)
    seen, actions, rewards = torch.randn(1, 4, 8), torch.randn(1, 4, 2), torch.zeros(1, 4)
    is_first = torch.tensor([[False, False, True, False]])
    changed = actions.clone()
    changed[0, 1] += 1.0  # before index 2, where another episode begins
    torch.testing.assert_close(
        motion.nll(seen, actions, is_first, rewards), motion.nll(seen, changed, is_first, rewards)
    )
    changed[0, 2] += 1.0
    assert not torch.equal(
        motion.nll(seen, actions, is_first, rewards)[:, 3], motion.nll(seen, changed, is_first, rewards)[:, 3]
    )


def test_without_rewards_it_has_no_loss() -> None:
    model, sample = make_model(**MOTION), make_sample()
    output = model(sample.observations, sample.actions, sample.is_first)
    assert "motion_nll" not in output.losses
    assert "motion_nll" not in {term for group in model.loss_groups(rewards=False).values() for term in group}


def test_a_width_of_nothing_is_named() -> None:
    with pytest.raises(ValueError, match=r"encoder_config\.motion_dim: got 0, expected a positive integer or null"):
        make_model(encoder_config={"motion_dim": 0})
