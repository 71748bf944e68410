"""Burn-in: a chunk that begins with the memory after the rows before it."""

from typing import Any

import pytest
import torch

from tests.world_model.small_model import EXTENDED, make_model, make_sample, tensors

CHANGES = {"recurrence_noise": 0.0, "perceiver_config": {"enabled": False}, "encoder_config": {"frame_stack": 3}}
BURN_IN, STEPS = 4, 7


@pytest.mark.parametrize("changes", [{}, EXTENDED])
@pytest.mark.parametrize("resets", [(), (2,), (4,), (5,)])
def test_after_a_burn_in_the_states_are_those_of_the_whole_sequence(
    resets: tuple[int, ...], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("world_model.model.standard_normal", lambda shape, *_: torch.zeros(shape))
    model, sample = make_model(**CHANGES, **changes).eval(), make_sample(steps=STEPS, resets=resets)
    before, after = (tuple(x[:, rows] for x in sample[:3]) for rows in (slice(BURN_IN), slice(BURN_IN, None)))
    whole = model.observe(*sample[:3], sample=False).states.map(lambda x: x[:, BURN_IN:])
    found = model.observe(*after, sample=False, start=model.warm_up(*before)).states
    torch.testing.assert_close(tensors(found), tensors(whole), rtol=1e-4, atol=1e-5)
    blind = model.observe(*after, sample=False).states.carry
    assert torch.allclose(blind, whole.carry, atol=1e-5) == (resets == (BURN_IN,))  # a reset forgets what came before


def test_a_burn_in_is_not_learned_from() -> None:
    """Its rewards are ignored, and no gradient flows into its frames."""
    model, sample = make_model(**CHANGES), make_sample(steps=STEPS)
    frames = sample.observations.clone().requires_grad_()
    start = model.warm_up(frames[:, :BURN_IN], sample.actions[:, :BURN_IN], sample.is_first[:, :BURN_IN])
    rest = [frames[:, BURN_IN:], *(x[:, BURN_IN:] for x in sample[1:])]
    torch.stack([loss.mean() for loss in model(*rest, start=start).losses.values()]).sum().backward()
    assert frames.grad is not None
    reached = frames.grad.flatten(2).any(-1)  # which frames any loss depends on
    assert not reached[:, :BURN_IN].any()
    assert reached[:, BURN_IN:].all()
