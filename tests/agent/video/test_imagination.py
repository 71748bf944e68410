"""Dreams under the policy: where they start, how they differ, and what is said of them."""

import numpy as np
import pytest
import torch

from agent.config.presets import make_config
from agent.evaluation.episodes import play_episode
from agent.learning.agent import Agent
from agent.learning.frames import to_frames
from agent.video.imagination import imagine, record_imagination
from envs import make_env
from tests.agent.learning.small_agent import make_agent
from tests.agent.video.test_dreams import capture


@pytest.fixture(scope="module")
def agent() -> Agent:
    """A small agent whose heads say something: fresh ones are all zero."""
    agent = make_agent()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in (agent.model.reward_head, agent.model.continue_head, agent.actor_critic.critic):
            for parameter in head.net[-1].parameters():
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=random))
        agent.model.continue_head.net[-1].bias.fill_(5.0)
    return agent


def cells(frame: np.ndarray, count: int, side: int) -> list[np.ndarray]:
    """The pictures [side, side, 3] of a grid of `count` cells in columns of ceil(sqrt(count))."""
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    top = 0
    while (frame[top] == 255).mean() > 0.5:  # the line of the status
        top += 1
    pitch = (len(frame) - top + 4) // rows
    places = [(top + i // columns * pitch, i % columns * (side + 4)) for i in range(count)]
    return [frame[y : y + side, x : x + side] for y, x in places]


def test_all_cells_watch_the_same_and_then_part(agent, tmp_path, monkeypatch):
    frames = capture(monkeypatch, "agent.video.imagination")
    found = record_imagination(agent, tmp_path / "a.mp4", seed=5, context=4, horizon=6, dreams=3)
    assert len(frames) == 10
    reset, _ = make_env("reaching").reset(seed=5)
    for cell in cells(frames[0], 4, 256):
        np.testing.assert_array_equal(cell, reset.repeat(4, axis=0).repeat(4, axis=1))
    last = cells(frames[-1], 4, 256)
    assert len({cell.tobytes() for cell in last}) == 4
    assert len(found.dreamt) == len(set(found.dreamt)) == 3
    assert found.steps == 6


def test_the_real_course_is_that_of_the_policy(agent, tmp_path):
    rows = []
    found = record_imagination(agent, tmp_path / "a.mp4", 5, context=4, horizon=6, dreams=1, mode="deterministic")
    play_episode(agent, make_env("reaching"), 5, on_step=rows.append)
    assert found.real == pytest.approx(sum(float(row.reward[0]) for row in rows[4:10]))


def test_dreams_are_summed_over_as_many_steps_as_came(agent, tmp_path):
    def found(horizon):
        return record_imagination(agent, tmp_path / "a.mp4", 5, context=20, horizon=horizon, dreams=2)

    short, long = found(6), found(10)  # an episode of reaching has 26 frames
    assert short.steps == long.steps == 6
    assert long.dreamt == pytest.approx(short.dreamt)
    assert found(4).steps == 4
    assert found(4).dreamt != pytest.approx(short.dreamt)


def test_the_value_is_that_of_the_last_frame_seen(agent, tmp_path):
    rows = []
    found = record_imagination(agent, tmp_path / "a.mp4", 5, context=4, horizon=2, dreams=1, mode="deterministic")
    play_episode(agent, make_env("reaching"), 5, on_step=rows.append)
    with torch.no_grad():  # frame by frame, as acting goes
        memory = agent.initial_state(1)
        for row in rows[:4]:
            belief, memory = agent.model.observe_step(
                memory, to_frames(torch.from_numpy(row.image)), torch.from_numpy(row.is_first)
            )
            memory = agent.model.remember(memory, belief, torch.from_numpy(row.action))
        expected = float(agent.actor_critic.critic.value(belief.features)[0])
    assert abs(expected) > 1e-2
    assert found.value == pytest.approx(expected, rel=1e-4)


def test_dreams_depend_on_the_seed_alone(agent, tmp_path):
    before = agent.generators["act"].get_state()

    def dreamt(seed, mode="sample"):
        return record_imagination(agent, tmp_path / "a.mp4", seed, horizon=4, dreams=2, mode=mode)

    assert dreamt(5) == dreamt(5) != dreamt(6)
    assert dreamt(5, "deterministic") != dreamt(5)
    assert len(set(dreamt(5, "deterministic").dreamt)) == 2  # latents are drawn all the same
    assert torch.equal(agent.generators["act"].get_state(), before)


def test_a_dream_that_ended_stays_over(agent):
    with torch.no_grad():
        start = agent.model.observe(torch.rand(1, 3, 3, 64, 64), torch.zeros(1, 3, 1), sample=False).states
        start = start.map(lambda x: x[:, -1])
        bias = agent.model.continue_head.net[-1].bias
        moments = imagine(agent, start, 4, 2, "sample", torch.Generator().manual_seed(0))
        ended = []
        for value in (5.0, 5.0, -5.0, 5.0):
            bias.fill_(value)
            ended.append(next(moments).has_ended.tolist())
        bias.fill_(5.0)
    assert ended == [[False] * 2, [False] * 2, [True] * 2, [True] * 2]


@pytest.mark.parametrize("mode", ["deterministic", "sample"])
def test_dreams_of_discrete_actions(mode):
    agent = Agent(make_config("debug", "reaching"), 3, "cpu", is_discrete=True)
    taken = []
    imagine_one = agent.model.imagine
    agent.model.imagine = lambda *given: taken.append(imagine_one(*given)) or taken[-1]
    with torch.no_grad():
        start = agent.model.observe(torch.rand(1, 2, 3, 64, 64), torch.zeros(1, 2, 3), sample=False).states
        start = start.map(lambda x: x[:, -1])
        moments = list(imagine(agent, start, 5, 4, mode, torch.Generator().manual_seed(0)))
    assert len(moments) == 5
    for _, actions in taken:
        assert actions.sum(-1).eq(1).all()
        assert actions.amax(-1).eq(1).all()


def test_a_dream_longer_than_the_episode_keeps_the_last_real_frame(agent, tmp_path, monkeypatch):
    frames = capture(monkeypatch, "agent.video.imagination")
    record_imagination(agent, tmp_path / "a.mp4", seed=5, context=20, horizon=10, dreams=1)
    assert len(frames) == 30
    held = [cells(frame, 2, 256)[0] for frame in frames]
    assert (held[-1] == held[26]).all()
    np.testing.assert_array_equal(held[26], held[25] // 3)


@pytest.mark.parametrize("setting", ["context", "horizon", "dreams"])
def test_numbers_below_one_are_refused(agent, tmp_path, setting):
    with pytest.raises(ValueError, match=f"^{setting}: got 0, expected at least 1$"):
        record_imagination(agent, tmp_path / "a.mp4", **{setting: 0})
    with pytest.raises(ValueError, match=r"^context: got 26, expected 1 to 25, "):
        record_imagination(agent, tmp_path / "a.mp4", context=26)
    assert list(tmp_path.iterdir()) == []
