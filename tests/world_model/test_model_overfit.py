"""It learns one chunk by heart, and extreme inputs leave it finite."""

import pytest
import torch
from small_model import make_model, make_sample, rng, total
from torch import Tensor
from torch.nn.functional import interpolate


def blobs(batch: int, steps: int) -> Tensor:
    """Smooth random frames [B, T, 3, 64, 64], all different."""
    coarse = torch.rand(batch * steps, 3, 4, 4, generator=rng(3))
    return interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1).unflatten(0, (batch, steps))


def test_one_chunk_is_learned_by_heart() -> None:
    model, sample = make_model(), make_sample(batch=2, steps=3)
    sample = sample._replace(observations=blobs(2, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = rng()
    first = last = float("inf")
    for step in range(500):
        losses, outputs = model.compute_total_loss(*sample, generator)
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        model.after_update(outputs, generator)
        last = losses["recon_loss"].item()
        first = last if step == 0 else first
        if last < first / 10:
            break
    assert last < first / 10
    shuffled = outputs["states"]._replace(
        latent=outputs["states"].latent.flip(0), hidden=outputs["states"].hidden.flip(0)
    )
    wrong = (model.decode(shuffled) - sample.observations).square().sum((2, 3, 4)).mean()
    assert wrong > 2 * last  # another sequence's state draws another frame


@pytest.mark.parametrize("frames", ["black", "white", "noise"])
def test_extreme_chunks_stay_finite(frames: str) -> None:
    model, sample = make_model(), make_sample(steps=4, resets=(2,))
    observations = {
        "black": torch.zeros_like(sample.observations),
        "white": torch.ones_like(sample.observations),
        "noise": torch.randn(sample.observations.shape, generator=rng()),
    }[frames]
    sample = sample._replace(
        observations=observations, actions=sample.actions.sign(), rewards=1e4 * sample.rewards.sign()
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        losses, outputs = model.compute_total_loss(*sample, rng())
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        model.after_update(outputs, rng())
        for name, loss in losses.items():
            assert loss.isfinite(), name
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
    dream, _ = model.imagine(outputs["states"].map(lambda x: x[:, -1]), lambda state: state.features[:, :2].sign(), 10)
    assert dream.features.isfinite().all()
    assert model.reward_head.predict(dream.features).isfinite().all()


def test_a_chunk_of_one_frame_trains() -> None:
    model, sample = make_model(), make_sample(steps=1)
    losses, _ = model.compute_total_loss(*sample, rng())
    total(losses).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
