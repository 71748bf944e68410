"""Videos of episodes hold the frames that were, in order."""

import numpy as np
import pytest
import torch

from agent.evaluation.episodes import evaluate, play_episode
from agent.learning.agent import Agent
from agent.video.recording import record, side_by_side
from envs import make_env
from tests.agent.learning.small_agent import make_agent
from tests.agent.video.video_frames import read_back


@pytest.fixture(scope="module")
def agent() -> Agent:
    return make_agent()


def real_frames(agent: Agent, seed: int, height: int, width: int | None = None) -> np.ndarray:
    env, frames = make_env("reaching"), []
    play_episode(agent, env, seed, on_step=lambda _: frames.append(env.render_frame(height, width)))
    return np.stack(frames)


def error(video: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each frame; H.264 halves the colours' resolution."""
    return np.abs(video.astype(float) - expected).mean((1, 2, 3))


def test_record_writes_whole_episodes_upright_and_in_order(agent, tmp_path):
    path = tmp_path / "videos" / "two.mp4"
    results = record(agent, path, episodes=2, seed=5, size=96)
    video = read_back(path, 96, 96)
    assert [r.length for r in results] == [25, 25]
    assert [r.total for r in results] == list(evaluate(agent, 2, seed=5).returns)
    assert len(video) == 52
    expected = np.concatenate([real_frames(agent, seed, 96) for seed in (5, 6)])
    found = error(video, expected)
    assert found.max() < 8
    flipped = error(video, expected[:, ::-1])
    assert (flipped > 1.5 * found).mean() > 0.9  # so the bound above can tell frames apart
    assert [p.name for p in path.parent.iterdir()] == ["two.mp4"]


def test_max_frames_bounds_the_video(agent, tmp_path):
    record(agent, tmp_path / "short.mp4", max_frames=7, size=64)
    assert len(read_back(tmp_path / "short.mp4", 64, 64)) == 7


def test_captions_stand_under_the_frame_and_change(agent, tmp_path):
    frames: list[np.ndarray] = []
    record(agent, tmp_path / "a.mp4", seed=5, size=120, width=160, on_frame=frames.append)
    assert len({frame.shape for frame in frames}) == 1
    shown = np.stack(frames)
    np.testing.assert_array_equal(shown[:, :120], real_frames(agent, 5, 120, 160))
    band = shown[:, 120:]
    assert 10 < band.shape[1] < 60
    assert (band == 255).mean() > 0.7
    assert (band < 100).any((1, 2, 3)).all()
    assert len({picture.tobytes() for picture in band}) == 26  # the time alone tells frames apart
    bare: list[np.ndarray] = []
    record(agent, tmp_path / "b.mp4", seed=5, size=120, width=160, on_frame=bare.append, captions=False)
    np.testing.assert_array_equal(np.stack(bare), shown[:, :120])


def test_a_grid_shows_episodes_side_by_side(agent, tmp_path):
    frames: list[np.ndarray] = []
    results = record(agent, tmp_path / "a.mp4", 3, seed=5, size=64, grid=True, on_frame=frames.append)
    assert [r.total for r in results] == list(evaluate(agent, 3, seed=5).returns)
    shown = np.stack(frames)
    assert shown.shape == (26, 132, 132, 3)
    for seed, (top, left) in zip((5, 6, 7), ((0, 0), (0, 68), (68, 0)), strict=True):
        np.testing.assert_array_equal(shown[:, top : top + 64, left : left + 64], real_frames(agent, seed, 64))
    assert len(read_back(tmp_path / "a.mp4", 132, 132)) == 26


def test_an_episode_that_is_over_keeps_its_last_frame_darkened():
    def stream(values):
        return iter([np.full((2, 2, 3), value, np.uint8) for value in values])

    frames = list(side_by_side([stream([30, 60]), stream([3, 6, 9, 12])], height=1))
    assert [int(frame[0, 0, 0]) for frame in frames] == [30, 60, 20, 20]
    assert [int(frame[1, 0, 0]) for frame in frames] == [30, 60, 60, 60]  # below the height: the caption
    assert [int(frame[0, -1, 0]) for frame in frames] == [3, 6, 9, 12]


def test_sampled_actions_are_those_of_the_seed(agent, tmp_path):
    first, again = (record(agent, tmp_path / "a.mp4", seed=5, size=32, mode="sample") for _ in range(2))
    assert first == again
    assert first[0].total == evaluate(agent, 1, seed=5, mode="sample").returns[0]
    assert first != record(agent, tmp_path / "a.mp4", seed=5, size=32)


@pytest.mark.parametrize("grid", [False, True])
def test_a_callback_may_stop_and_leaves_no_file(agent, tmp_path, monkeypatch, grid):
    closed, rows = [], []
    monkeypatch.setattr("envs.reaching.ReachingEnv.close", lambda env: closed.append(env))
    before = agent.generators["act"].get_state()

    def stop(row):
        rows.append(row)
        if len(rows) == 40:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        record(agent, tmp_path / "none.mp4", episodes=2, size=32, mode="sample", on_step=stop, grid=grid)
    assert list(tmp_path.iterdir()) == []
    assert len(closed) == (2 if grid else 1)
    assert torch.equal(agent.generators["act"].get_state(), before)


def test_a_failing_recording_leaves_no_file(agent, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("stopped")

    monkeypatch.setattr(agent, "act", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        record(agent, tmp_path / "none.mp4")
    assert list(tmp_path.iterdir()) == []
