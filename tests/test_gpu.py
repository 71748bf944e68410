"""The agent on a GPU: beliefs as on the CPU, updates in both precisions and compiled, a run that is resumed.

Skipped where there is no GPU. DEVICE=cpu runs the same code without one.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent import Trainer, make_config
from agent.learning.agent import Agent
from agent.learning.compiling import Compiled
from agent.run_folder.checkpoint import load_checkpoint, load_newest, write_checkpoint
from tests.agent.learning.small_agent import make_agent, make_chunk
from tests.agent.training.payloads import assert_same

DEVICE = os.environ.get("DEVICE", "cuda")

pytestmark = [
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore"),  # torch warns of its own compiler, and other versions of other things
]


def believed(agent: Agent) -> np.ndarray:
    """Hidden states of four environments over three frames, without a draw; two of them begin anew at the second."""
    images, memory, hidden = make_chunk(4, 3).image.numpy(), agent.initial_state(4), []
    for t, first in enumerate(np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool)):
        _, memory = agent.act(images[:, t], first, memory, "deterministic")
        hidden.append(memory.hidden.cpu().numpy())
    return np.stack(hidden)


def run(logdir: Path, resume: bool = False, **changes: Any) -> Trainer:
    """A run of moving discs, some ten updates; not begun."""
    settings = {"env_frames": 90, "replay.prefill_frames": 60, "train.eval_every": 80, "train.eval_episodes": 1}
    config = make_config("debug", "reaching", settings | {"device": DEVICE, "train.video_frames": 0} | changes)
    return Trainer(config, logdir, resume=resume, quiet=True)


def test_beliefs_are_those_of_the_cpu() -> None:
    """A GPU may multiply with fewer bits (TF32) and sums in another order."""
    expected = believed(make_agent())
    assert expected.std() > 0.03
    np.testing.assert_allclose(believed(make_agent(DEVICE)), expected, atol=3e-3)


def test_an_agent_passes_through_a_file_to_the_cpu_and_back(tmp_path: Path) -> None:
    trained = make_agent(DEVICE)
    trained.update(make_chunk(2, 6))
    write_checkpoint(tmp_path / "a.pt", trained.state_dict())
    for device in ("cpu", DEVICE):
        loaded, saved = make_agent(device), load_checkpoint(tmp_path / "a.pt")
        loaded.load_state_dict(saved)
        found = loaded.state_dict()
        if device != DEVICE:  # random states stay with the kind of device
            del found["generators"], saved["generators"]
        assert_same(found, saved, device)
        np.testing.assert_allclose(believed(loaded), believed(trained), atol=3e-3)
        loaded.update(make_chunk(2, 6))  # the optimizers' states are where the weights are


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("gradient", ["dynamics", "reinforce"])
def test_updates_learn(precision: str, gradient: str) -> None:
    """The same chunk is reconstructed better, and all weights stay finite and float32."""
    agent = make_agent(DEVICE, precision=precision, behavior__gradient=gradient)
    before = {name: weight.detach().clone() for name, weight in agent.named_weights()}
    losses = [agent.update(make_chunk(2, 6)) for _ in range(8)]
    assert losses[0]["recon_loss"].device.type == DEVICE
    first, last = (torch.stack([loss["recon_loss"] for loss in part]).mean() for part in (losses[:2], losses[-2:]))
    assert last < 0.99 * first
    for name, weight in agent.named_weights():
        assert weight.dtype == torch.float32, name
        assert weight.isfinite().all(), name
    changed = {name.split(".")[0] for name, weight in agent.named_weights() if not torch.equal(weight, before[name])}
    assert changed == {"model", "actor_critic"}


@pytest.mark.slow
def test_compiled_updates_are_the_eager_ones_to_rounding() -> None:
    eager, compiled = (make_agent(DEVICE, behavior__horizon=2, world_model__max_components=2) for _ in range(2))
    compiled.compile()
    for update in range(2):
        found, expected = compiled.update(make_chunk(2, 2)), eager.update(make_chunk(2, 2))
        for name in ("recon_loss", "kl_bound", "reward_nll", "actor_loss", "critic_loss"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-3, msg=f"{name}, {update}")
    for loop in (compiled.model.scan, compiled.behavior_learner.roll):
        assert isinstance(loop, Compiled)
        assert loop.compiled is not None  # it did not fall back


def test_a_run_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    """What a checkpoint holds is restored bit for bit, random states of the GPU included."""
    begun = run(tmp_path, env_frames=75)
    begun.run()
    saved, _ = load_newest(tmp_path / "checkpoints")
    assert saved["counters"]["updates"] == begun.agent.updates > 0
    resumed = run(tmp_path, resume=True)
    for name in ("agent", "collector", "replay"):
        assert_same(getattr(resumed, name).state_dict(), saved[name], name)
    resumed.run()
    assert resumed.stop_reason == ""
    assert resumed.env_frames >= 90
    assert resumed.agent.updates > begun.agent.updates
