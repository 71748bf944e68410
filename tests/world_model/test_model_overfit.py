"""It learns one chunk by heart, and extreme inputs leave it finite."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tests.world_model.small_model import SWITCHES, make_model, make_sample, rng, total, training_losses


def blobs(batch: int, steps: int) -> Tensor:
    """Smooth random frames [B, T, 3, 64, 64], all different."""
    coarse = torch.rand(batch * steps, 3, 4, 4, generator=rng(3))
    return interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1).unflatten(0, (batch, steps))


@pytest.mark.slow
def test_one_chunk_is_learned_by_heart() -> None:
    model, sample = make_model(), make_sample(batch=2, steps=3)
    sample = sample._replace(observations=blobs(2, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = rng()
    first = last = float("inf")
    for step in range(500):
        losses, output = training_losses(model, sample, generator)
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        model.after_update(output, generator)
        last = losses["recon_loss"].item()
        first = last if step == 0 else first
        if last < first / 10:
            break
    assert last < first / 10
    states = output.observed.states
    for swapped in (states._replace(latent=states.latent.flip(0)), states.map(lambda x: x.flip(0))):
        frames = model.decode(swapped, output.decoder_maps)
        wrong = (frames - sample.observations).square().sum((2, 3, 4)).mean()
        assert wrong > 2 * last  # another sequence's latent, and all the more its whole state, draws another frame


@pytest.mark.parametrize("frames", ["black", "white", "noise", "loud"])
def test_extreme_chunks_stay_finite(frames: str) -> None:
    model, sample = make_model(), make_sample(steps=4, resets=(2,))
    observations = {
        "black": torch.zeros_like(sample.observations),
        "white": torch.ones_like(sample.observations),
        "noise": torch.randn(sample.observations.shape, generator=rng()),
        "loud": 1e4 * torch.randn(sample.observations.shape, generator=rng()),  # any finite frames are taken
    }[frames]
    sample = sample._replace(
        observations=observations, actions=sample.actions.sign(), rewards=1e4 * sample.rewards.sign()
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        losses, output = training_losses(model, sample, rng())
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        model.after_update(output, rng())
        for name, loss in losses.items():
            assert loss.isfinite(), name
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
    dream, _ = model.imagine(
        output.observed.states.map(lambda x: x[:, -1]), lambda state: state.features[:, :2].sign(), 10
    )
    assert dream.features.isfinite().all()
    assert model.reward_head.predict(dream.features).isfinite().all()


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_chunk_of_one_frame_trains(name: str, batch: int) -> None:
    model, sample = make_model(**SWITCHES[name]), make_sample(batch=batch, steps=1)
    losses, output = training_losses(model, sample, rng())
    total(losses).backward()
    model.after_update(output, rng())
    assert all(loss.isfinite() for loss in losses.values())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), parameter_name
        assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name
    assert model.decoder.project.weight.grad is not None
    for absent in {"next_token_ce", "attention_dynamics_loss"} & losses.keys():  # both need a second frame
        assert losses[absent] == 0, absent
