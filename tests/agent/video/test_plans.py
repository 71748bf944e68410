"""The video of a planning agent shows what its plans expect, and plays as the agent does without it."""

import numpy as np
import pytest
import torch

from agent.evaluation.episodes import evaluate
from agent.learning.agent import Agent
from agent.video.plans import ForeseeingPlayer, strip
from agent.video.recording import record
from tests.agent.learning.small_agent import make_agent

SIZE = 160


@pytest.fixture(scope="module")
def agent() -> Agent:
    return make_agent(behavior__planner="mppi", planner__horizon=4, planner__candidates=12, planner__iterations=1)


def test_expected_frames_stand_in_order_under_the_real_one(agent, tmp_path, monkeypatch):
    """The decoder is replaced by one that paints a frame in the grey of its place in the dream."""
    greys = torch.tensor([0.2, 0.4, 0.6, 0.8])

    def decode(states):
        assert states.latent.shape[:2] == (1, 4)
        return greys[None, :, None, None, None].expand(1, 4, 3, 64, 64)

    monkeypatch.setattr(agent.model, "decode", decode)
    frames: list[np.ndarray] = []
    record(agent, tmp_path / "a.mp4", size=SIZE, captions=False, max_frames=3, on_frame=frames.append)
    for frame in frames:
        below = frame[SIZE:]
        assert frame.shape[1] == SIZE
        middles = below[len(below) // 2, [18 + 41 * i for i in range(4)], 0]
        np.testing.assert_array_equal(middles, [51, 102, 153, 204])


def test_showing_plans_changes_no_action(agent, tmp_path):
    for mode in ("deterministic", "sample"):
        shown = record(agent, tmp_path / "a.mp4", seed=3, size=64, mode=mode)
        assert [x.total for x in shown] == list(evaluate(agent, 1, seed=3, mode=mode).returns)


def test_what_is_expected_follows_from_the_plan(agent, monkeypatch):
    """The dreamt actions are those of the memory's plan."""
    dreamt = []
    rollout = agent.model.rollout
    monkeypatch.setattr(
        agent.model, "rollout", lambda state, plan, *a: (dreamt.append(plan), rollout(state, plan, *a))[1]
    )
    player = ForeseeingPlayer(agent)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    action, memory = player.act(image, np.array([True]), player.initial_state(1), "deterministic")
    torch.testing.assert_close(dreamt[0], memory.plan[0])
    np.testing.assert_array_equal(dreamt[0][:, 0].numpy(), action)
    assert player.expected.shape == (4, 64, 64, 3)


@pytest.mark.parametrize(("steps", "width", "shown"), [(4, 160, 4), (15, 256, 7), (3, 16, 1), (1, 256, 1)])
def test_a_strip_is_as_wide_as_the_frame_and_ends_with_the_last_step(steps, width, shown):
    expected = (
        np.arange(10, 10 * steps + 10, 10, np.uint8)[:, None, None, None].repeat(64, 1).repeat(64, 2).repeat(3, 3)
    )
    row = strip(expected, width)
    assert row.shape[1] == width
    greys = list(dict.fromkeys(int(x) for x in row[len(row) // 2, :, 0] if x < 255))
    assert len(greys) == shown
    assert greys[-1] == 10 * steps
    assert greys == sorted(greys)
