"""Dreams: the open loop sees nothing of what it predicts, and the figures are what they say."""

import math

import numpy as np
import pytest
import torch

from agent.evaluation.episodes import play_episode
from agent.learning.agent import Agent
from agent.video.dream_video import record_dream
from agent.video.dreams import inferred, open_loop, play_and_keep, psnr
from envs import make_env
from tests.agent.learning.small_agent import make_agent
from tests.agent.video.video_frames import read_back


@pytest.fixture(scope="module")
def agent() -> Agent:
    return make_agent()


def capture(monkeypatch, module: str) -> list[np.ndarray]:
    """A list that gets every frame that the module's next video is made of."""
    frames: list[np.ndarray] = []
    from envs import VideoWriter

    class Kept(VideoWriter):
        def add(self, frame):
            frames.append(frame)
            super().add(frame)

    monkeypatch.setattr(f"{module}.VideoWriter", Kept)
    return frames


def find(frame: np.ndarray, panel: np.ndarray, left: int) -> int:
    """The row at which a panel stands in a frame, from column `left` on."""
    height, width, _ = panel.shape
    rows = [t for t in range(len(frame) - height + 1) if (frame[t : t + height, left : left + width] == panel).all()]
    assert len(rows) == 1
    return rows[0]


def test_dream_shows_its_panels_and_gives_figures(agent, tmp_path, monkeypatch):
    frames = capture(monkeypatch, "agent.video.dream_video")
    agent.model.train()
    scores = record_dream(agent, tmp_path / "dream.mp4", seed=5, context=5)
    assert agent.model.training
    env, images = make_env("reaching"), []
    play_episode(agent, env, 5, on_step=lambda row: images.append(row.image[0]))
    real = np.stack(images)
    assert len(frames) == len(real) == 26
    large = real.repeat(4, axis=1).repeat(4, axis=2)
    top = find(frames[7], large[7], 0)
    shown = np.stack(frames).astype(int)
    panels = {i: shown[:, top : top + 256, 260 * i : 260 * i + 256] for i in range(3)}
    np.testing.assert_array_equal(panels[0], large)
    np.testing.assert_array_equal(panels[1][:5], panels[2][:5])  # while it watches it is the reconstruction
    assert (panels[1][5:] != panels[2][5:]).any((1, 2, 3)).all()
    below = top + 256 + 4
    for i in (1, 2):  # under each of the two its error, four times
        errors = (4 * np.abs(panels[0] - panels[i])).clip(max=255)
        labelled = shown[:, below : below + 300, 260 * i : 260 * i + 256]
        at = find(labelled[7], errors[7], 0)
        np.testing.assert_array_equal(labelled[:, at : at + 256], errors)
    height, width = frames[0].shape[:2]
    assert width == 776
    assert len(read_back(tmp_path / "dream.mp4", height + height % 2, 776)) == 26
    assert set(scores.open_loop) == {1, 5, 15}
    pixels = real / 255
    np.testing.assert_allclose(scores.mean_frame, -10 * math.log10(pixels.var(0).mean()), rtol=1e-4)
    error = (panels[1][:, ::4, ::4] / 255 - pixels) ** 2
    assert scores.reconstruction <= -10 * math.log10(error.mean())  # what is shown lies in [0, 1], so is nearer
    assert all(math.isfinite(x) for x in scores.open_loop.values())
    assert record_dream(agent, tmp_path / "again.mp4", seed=5) == scores


def test_a_model_without_attention_or_mixture_dreams_too(tmp_path):
    agent = make_agent(world_model__attention_config__enabled=False, world_model__max_components=1)
    assert record_dream(agent, tmp_path / "dream.mp4").open_loop.keys() == {1, 5, 15}
    assert (tmp_path / "dream.mp4").stat().st_size > 1000


def test_components_are_charted_where_there_are_several(tmp_path, monkeypatch):
    heights = []
    for components in (1, 2):
        frames = capture(monkeypatch, "agent.video.dream_video")
        record_dream(make_agent(world_model__max_components=components), tmp_path / "dream.mp4")
        heights.append(len(frames[0]))
    assert 64 <= heights[1] - heights[0] < 80  # the chart and the gap above it


def test_sampled_actions_change_the_episode(agent, tmp_path):
    assert record_dream(agent, tmp_path / "a.mp4", mode="sample") != record_dream(agent, tmp_path / "a.mp4")


def test_psnr_by_hand():
    target = torch.zeros(2, 3, 4, 4)
    assert psnr(target + 0.1, target) == pytest.approx(20.0, abs=1e-4)
    assert psnr(target + torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), target) == pytest.approx(
        10 * math.log10(2), abs=1e-4
    )


def test_a_kept_episode_is_the_one_that_was_played(agent):
    rows = []
    play_episode(agent, make_env("reaching"), 3, on_step=rows.append)
    found = play_and_keep(agent, 3, "deterministic")
    assert found.fps == 10.0
    np.testing.assert_array_equal(found.rewards, [row.reward[0] for row in rows])
    np.testing.assert_array_equal(found.actions[0], [row.action[0] for row in rows])
    shown = (found.frames[0] * 255).round().permute(0, 2, 3, 1)
    np.testing.assert_array_equal(shown, [row.image[0] for row in rows])


def test_open_loop_sees_only_what_came_before_and_the_actions(agent):
    played = play_and_keep(agent, 1, "deterministic")
    frames, actions = played.frames, played.actions

    def dream(frames, actions, starts, horizon):
        agent.model.eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            outputs = agent.model.forward_sequence(frames, actions, generator=generator, sample=False)
            return open_loop(agent, inferred(outputs, actions), starts, horizon, generator.manual_seed(1))

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
