"""bfloat16: matrix products and convolutions in half precision, states, losses and weights in float32."""

import pytest
import torch

from tests.agent.learning.small_agent import make_agent, make_chunk
from world_model.generative_prior import DPGMMPrior


@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_a_half_precision_update_is_the_full_one_to_its_rounding(gradient: str) -> None:
    """bfloat16 has 8 bits: 0.4 % a number, and what is summed from hundreds of them stays within a few per cent."""
    half, full = (make_agent(behavior__gradient=gradient, precision=kind) for kind in ("bfloat16", "float32"))
    found, expected = half.update(make_chunk(4, 6)), full.update(make_chunk(4, 6))
    for name in ("recon_loss", "kl_bound", "reward_nll", "context_nll", "vq_recon", "critic_loss"):
        assert found[name].dtype == torch.float32, name
        torch.testing.assert_close(found[name], expected[name], rtol=0.05, atol=0.01, msg=name)
    assert not torch.equal(found["recon_loss"], expected["recon_loss"])  # something did run in half precision
    for module in (half.model, half.actor_critic):
        for name, parameter in module.named_parameters():
            assert parameter.dtype == torch.float32, name
            assert parameter.isfinite().all(), name


def test_states_and_distributions_stay_float32() -> None:
    """The carry is added to at every step of an episode; a rounded one would forget."""
    agent, chunk = make_agent(precision="bfloat16"), make_chunk(4, 6)
    kinds: dict[str, torch.dtype] = {}
    agent.model.trunk.register_forward_hook(lambda *call: kinds.update(trunk=call[-1].dtype))
    agent.model.prior.trunk.register_forward_hook(lambda *call: kinds.update(prior=call[-1].dtype))
    assert isinstance(agent.model.prior, DPGMMPrior)
    with agent.autocast():
        seen = agent.model.observe(chunk.image.movedim(-1, -3) / 255, chunk.action)
        policy = agent.actor_critic.actor(seen.states.features)
        params = agent.model.prior(seen.states.carry)
    assert kinds == {"trunk": torch.bfloat16, "prior": torch.bfloat16}
    full = [seen.states.hidden, seen.states.cell, seen.states.latent, seen.mean, seen.std, *policy, *params]
    assert {x.dtype for x in full} == {torch.float32}
    images, first = chunk.image[:, 0].numpy(), torch.ones(4, dtype=torch.bool).numpy()
    actions, memory = agent.act(images, first, agent.initial_state(4), "collect")
    assert actions.dtype == "float32"
    assert memory.hidden.dtype == memory.cell.dtype == torch.float32
