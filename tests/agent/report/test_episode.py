"""The episode that can be scrubbed: frame t of the video shows row t, whatever the frames' size."""

import numpy as np
import pytest
import torch

from agent import Agent, make_config
from agent.report import episode
from agent.report.held_out import play
from agent.report.inference import infer
from tests.agent.video.video_frames import read_back


def test_every_frame_of_the_video_shows_its_row(monkeypatch, tmp_path):
    monkeypatch.setattr(episode, "STRETCH", 4)
    monkeypatch.setattr(episode, "ROWS", 4)  # decoded in three parts
    changes = {"env.size": 128, "world_model.slow_config.every": 3, "world_model.prior_config.action_path": True}
    agent = Agent(make_config("debug", "counting", changes), action_dim=2)
    data = play(agent, 1, 0, "sample")
    inference = infer(agent, data, 0)
    views = [np.full((episode.SIDE, episode.SIDE, 3), 20 * t, np.uint8) for t in range(11)]
    view = episode.episode_view(agent, data, inference, views, torch.Generator().manual_seed(0))
    path = tmp_path / "episode.mp4"
    path.write_bytes(view.video.data)
    frames = read_back(path, episode.SIDE, 2 * episode.SIDE + episode.GAP)
    assert len(frames) == 11
    assert frames[:, :, : episode.SIDE].mean((1, 2, 3)) == pytest.approx(20 * np.arange(11), abs=4)
    seen = (255 * data.frames[0]).numpy().transpose(0, 2, 3, 1)
    panel = frames[:, : episode.PANEL, episode.SIDE + episode.GAP :][:, :, : episode.PANEL]
    assert np.abs(panel - seen).mean() < 8
    assert view.restarts == [4, 8]
    assert view.reward.tolist() == list(range(11))
    assert np.isnan(view.dreamt).tolist() == [True] * 5 + [False] * 6
    assert view.shares is not None
    assert view.shares.sum(1) == pytest.approx(np.ones(11))
