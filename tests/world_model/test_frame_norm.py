"""Frames around their running mean: statistics by hand, when they move, and that normalising is undone exactly."""

import pickle

import pytest
import torch

from world_model.frame_norm import MIN_SCALE, FrameNorm


def frames(seed: int, count: int = 20) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_first_training_batch_sets_the_statistics() -> None:
    norm, batch = FrameNorm(), frames(0)
    norm.initialise(batch)
    torch.testing.assert_close(norm.mean, batch.mean(0))
    assert norm.scale.item() == pytest.approx((batch - batch.mean(0)).pow(2).mean().sqrt().item(), rel=1e-5)
    normed = norm(batch)
    assert normed.mean().abs() < 1e-5
    assert normed.pow(2).mean().item() == pytest.approx(1.0, rel=1e-4)
    norm.initialise(frames(1) * 0.1)  # a second call changes nothing
    torch.testing.assert_close(norm.mean, batch.mean(0))


def test_weights_of_a_model_that_has_not_begun_begin_again() -> None:
    norm = FrameNorm()
    norm.initialise(frames(0))
    copied = pickle.loads(pickle.dumps(norm))
    copied.initialise(frames(1))
    assert torch.equal(copied.mean, norm.mean)
    norm.load_state_dict(FrameNorm().state_dict())
    norm.initialise(frames(1))
    torch.testing.assert_close(norm.mean, frames(1).mean(0))


def test_restore_is_the_inverse() -> None:
    norm = FrameNorm()
    norm.initialise(frames(0))
    torch.testing.assert_close(norm.restore(norm(frames(1))), frames(1), rtol=0, atol=1e-6)


def test_updates_move_by_one_minus_decay_and_leave_older_tensors_alone() -> None:
    norm, first, second = FrameNorm(decay=0.9), frames(0), frames(1) * 0.5
    norm.initialise(first)
    mean, scale = norm.mean, norm.scale
    kept = mean.clone(), scale.clone()
    norm.update(second)
    torch.testing.assert_close(norm.mean, 0.9 * kept[0] + 0.1 * second.mean(0))
    expected = 0.9 * kept[1] + 0.1 * (second - second.mean(0)).pow(2).mean().sqrt()
    torch.testing.assert_close(norm.scale, expected)
    assert torch.equal(mean, kept[0])  # a backward pass may still need them
    assert torch.equal(scale, kept[1])


def test_eval_changes_nothing() -> None:
    norm = FrameNorm().eval()
    norm.initialise(frames(0))
    norm.update(frames(0))
    assert (norm.mean == 0.5).all()
    assert norm.scale == 1


def test_frames_that_never_change_are_not_blown_up() -> None:
    norm = FrameNorm()
    norm.initialise(torch.zeros(4, 3, 64, 64))
    assert norm.scale.item() == pytest.approx(MIN_SCALE)
    assert (norm(torch.zeros(4, 3, 64, 64)) == 0).all()
