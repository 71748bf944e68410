"""Held-out episodes, and what the model infers from them."""

import numpy as np
import pytest

from agent import Agent, make_config
from agent.report import probes
from agent.report.held_out import play
from agent.report.inference import infer
from envs.counting import decode_frame


@pytest.mark.parametrize("is_on", [True, False])
def test_pillars_that_are_off_have_no_figures(is_on):
    pillars = ("perceiver_config", "attention_config")
    changes = {f"world_model.{pillar}.enabled": is_on for pillar in pillars}
    changes["world_model.max_components"] = 3 if is_on else 1
    agent = Agent(make_config("debug", "counting", changes), action_dim=2)
    data = play(agent, 4, 0, "sample")
    inference = infer(agent, data, 0)
    found = inference.sources
    assert set(found) == {"frame", "z", "g"} | ({"c", "slots"} if is_on else set())
    figures = probes.state_figures(found, data.simulator, probes.resamples(2, 0))
    assert list(figures["r2"]) == (list(probes.SOURCES) if is_on else ["frame", "z", "g", "z g"])
    assert list(figures["gain"]) == (["c", "slots"] if is_on else [])
    parts = (inference.responsibilities, inference.tokens, inference.attention)
    assert [part is not None for part in parts] == [is_on] * 3


def test_the_simulator_state_is_that_of_the_frame():
    agent = Agent(make_config("debug", "counting", {}), action_dim=2)
    data = play(agent, 2, 0, "sample")
    images = (255 * data.frames).round().byte().movedim(2, -1).numpy()
    np.testing.assert_array_equal(decode_frame(images)[2], data.simulator["step"])
