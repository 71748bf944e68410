"""Videos hold the frames that were, in order, and the open loop sees nothing of what it predicts."""

import math
import subprocess

import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe

from agent.agent import Agent, to_frames
from agent.config import make_config
from agent.evaluation import play_episode
from agent.recording import open_loop, psnr, record, record_dream, watched
from envs import make_env


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(make_config("debug", "reaching"), action_dim=1, device="cpu")


def read_back(path, height: int, width: int) -> np.ndarray:
    """The frames [L, height, width, 3] that ffmpeg decodes."""
    command = [get_ffmpeg_exe(), "-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert f" {width}x{height}" in result.stderr.decode()
    return np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3)


def real_frames(agent: Agent, seed: int, size: int) -> np.ndarray:
    env, frames = make_env("reaching"), []
    play_episode(agent, env, seed, on_step=lambda _: frames.append(env.render_frame(size)))
    return np.stack(frames)


def test_record_writes_whole_episodes_upright_and_in_order(agent, tmp_path):
    path = tmp_path / "videos" / "two.mp4"
    results = record(agent, path, episodes=2, seed=5, size=96)
    video = read_back(path, 96, 96)
    assert [r.length for r in results] == [25, 25]
    assert len(video) == 52
    expected = np.concatenate([real_frames(agent, seed, 96) for seed in (5, 6)])
    error = np.abs(video.astype(float) - expected).mean((1, 2, 3))
    assert error.max() < 8  # H.264 halves the colours' resolution
    flipped = np.abs(video.astype(float) - expected[:, ::-1]).mean((1, 2, 3))
    assert (flipped > 1.5 * error).mean() > 0.9  # so the bound above can tell frames apart
    assert [p.name for p in path.parent.iterdir()] == ["two.mp4"]


def test_max_frames_bounds_the_video(agent, tmp_path):
    record(agent, tmp_path / "short.mp4", max_frames=7, size=64)
    assert len(read_back(tmp_path / "short.mp4", 64, 64)) == 7


def test_a_failing_recording_leaves_no_file(agent, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("stopped")

    monkeypatch.setattr(agent, "act", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        record(agent, tmp_path / "none.mp4")
    assert list(tmp_path.iterdir()) == []


def test_dream_shows_three_panels_and_gives_figures(agent, tmp_path):
    agent.model.train()
    scores = record_dream(agent, tmp_path / "dream.mp4", seed=5, context=5)
    assert agent.model.training
    video = read_back(tmp_path / "dream.mp4", 256 + 20, 3 * 256 + 2 * 4).astype(float)
    assert len(video) == 26
    left = real_frames(agent, 5, 64).repeat(4, axis=1).repeat(4, axis=2)
    assert np.abs(video[:, 20:, :256] - left).mean((1, 2, 3)).max() < 8
    middle, right = video[:, 20:, 260:516], video[:, 20:, 520:]
    assert np.abs(middle - right)[:5].mean() < 2  # while it watches it is the reconstruction
    assert set(scores.open_loop) == {1, 5, 15}
    frames = left[:, ::4, ::4] / 255
    np.testing.assert_allclose(scores.mean_frame, -10 * math.log10(frames.var(0).mean()), rtol=1e-4)
    assert all(math.isfinite(x) for x in (scores.reconstruction, *scores.open_loop.values()))
    assert record_dream(agent, tmp_path / "again.mp4", seed=5) == scores


def test_psnr_by_hand():
    target = torch.zeros(2, 3, 4, 4)
    assert psnr(target + 0.1, target) == pytest.approx(20.0, abs=1e-4)
    assert psnr(target + torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), target) == pytest.approx(
        10 * math.log10(2), abs=1e-4
    )


def test_open_loop_sees_only_what_came_before_and_the_actions(agent):
    rows = []
    play_episode(agent, make_env("reaching"), 1, on_step=rows.append)
    frames = to_frames(torch.from_numpy(np.concatenate([row.image for row in rows])))[None]
    actions = torch.from_numpy(np.stack([row.action for row in rows], 1))

    def dream(frames, actions, starts, horizon):
        agent.model.eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            outputs = agent.model.forward_sequence(frames, actions, generator=generator, sample=False)
            return open_loop(agent, watched(outputs, actions), starts, horizon, generator.manual_seed(1))

    dreamt = dream(frames, actions, [4], 10)
    assert dreamt.shape == (1, 10, 3, 64, 64)
    future = frames.clone()
    future[:, 5:] = torch.rand(frames[:, 5:].shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(dream(future, actions, [4], 10), dreamt, rtol=0, atol=1e-6)
    past = frames.clone()
    past[:, :5] = future[:, 5:10]
    assert not torch.allclose(dream(past, actions, [4], 10), dreamt, atol=1e-6)
    other = actions.clone()
    other[:, 8] = -other[:, 8] + 0.5  # taken after the 9th frame: the dream's frames from the 5th on may change
    changed = dream(frames, other, [4], 10)
    torch.testing.assert_close(changed[:, :4], dreamt[:, :4], rtol=0, atol=1e-6)
    assert not torch.allclose(changed[:, 4:], dreamt[:, 4:], atol=1e-6)


@pytest.mark.parametrize("context", [0, 26])
def test_a_context_without_a_future_is_refused(agent, tmp_path, context):
    with pytest.raises(ValueError, match=f"^context: got {context}, expected 1 to 25, "):
        record_dream(agent, tmp_path / "none.mp4", context=context)
    assert list(tmp_path.iterdir()) == []
