"""The agent's updates with a burn-in, and the settings that it contradicts."""

import pytest
import torch

from agent.config.presets import make_config
from tests.agent.learning.small_agent import make_agent, make_chunk


def test_an_agent_learns_from_the_rows_after_the_burn_in() -> None:
    chunk = make_chunk(2, 5)
    other = chunk._replace(reward=torch.where(torch.arange(5) < 2, 100.0, chunk.reward))
    agents = [make_agent(replay__burn_in=2, replay__batch_length=3) for _ in range(3)]
    metrics = [agent.update(given) for agent, given in zip(agents, (chunk, other, chunk), strict=True)]
    assert metrics[0]["reward_nll"] == metrics[1]["reward_nll"]
    assert torch.isfinite(metrics[0]["actor_loss"])
    blind = make_agent(replay__batch_length=3).update(chunk.map(lambda x: x[:, 2:]))
    assert blind["kl_bound"] != metrics[0]["kl_bound"]  # its carry at the first row is another


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"burn_in": 9, "batch_length": 8}, r"replay\.burn_in, batch_length: got \(9, 8\), expected 0 <= burn_in"),
        ({"burn_in": -1}, r"replay\.burn_in, batch_length: got \(-1, "),
        (
            {"burn_in": 4, "batch_length": 8, "capacity_steps": 11},
            r"replay\.batch_length \+ burn_in, capacity_steps: got \(12, 11\), expected room for a chunk",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes: dict[str, int], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make_config("debug", "counting", {f"replay.{key}": value for key, value in changes.items()})
