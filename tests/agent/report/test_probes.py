"""Linear probes on made-up data whose answers are known by hand."""

import pytest
import torch

from agent.report import probes

COUNTS = probes.resamples(8, 0)  # of the eight judged episodes of sixteen


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scores(x: torch.Tensor, y: torch.Tensor) -> list[float]:
    return probes.r2(probes.probe(x, y), COUNTS)[0].tolist()


def test_a_probe_recovers_a_linear_map_and_finds_nothing_in_noise():
    x, other = noise(16, 60, 5), noise(16, 60, 1, seed=1)
    x[..., 0] = 3 + 1000 * x[..., 0]  # units do not matter
    x[..., 4] = 7.0  # nor do columns that never change
    exact = 2 + x[..., :1] / 1000 - 3 * x[..., 1:2]
    half = x[..., 2:3] + other  # as much noise as signal: R² is 1/2
    found = scores(x, torch.cat([exact, half, other], -1))
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert found[1] == pytest.approx(0.5, abs=0.06)
    assert found[2] == pytest.approx(0, abs=0.02)


def test_what_holds_within_an_episode_alone_is_no_knowledge():
    mark, level = noise(16, 1, 20), noise(16, 1, 1, seed=1)  # both differ from episode to episode and are unrelated
    rows = torch.arange(60) % 2 == 0
    x, y = mark.expand(16, 60, 20), level.expand(16, 60, 1)
    learned, judged = x[:, rows].flatten(0, 1).double(), x[:, ~rows].flatten(0, 1).double()
    within = probes.ridge(learned, y[:, rows].flatten(0, 1).double(), judged)[0]
    assert (within - y[:, ~rows].flatten(0, 1)).abs().max() < 1e-3  # other rows of the same episodes are no test
    assert scores(x, y)[0] < 0.3


def test_many_useless_columns_cost_little():
    assert scores(noise(16, 60, 300), noise(16, 60, 1, seed=1))[0] == pytest.approx(0, abs=0.05)


def test_gains_name_the_pillar_that_holds_a_variable():
    hidden = noise(16, 60, 3)
    parts = {"frame": hidden, "z": hidden[..., :1], "g": noise(16, 60, 4, seed=1), "c": hidden[..., 1:2]}
    parts["slots"] = torch.cat([noise(16, 60, 2, seed=2), hidden[..., 2:]], -1)
    names = ("seen by z", "seen by c", "seen by slots")
    simulator = {name: hidden[..., i].double() for i, name in enumerate(names)} | {"fixed": torch.ones(16, 60)}
    figures = probes.state_figures(parts, simulator, COUNTS)
    assert figures["sizes"]["z g slots"] == 1 + 4 + 3
    for source, expected in {"frame": (1, 1, 1), "z g": (1, 0, 0), "z g c": (1, 1, 0)}.items():
        found = figures["r2"][source]
        assert [found[name]["value"] for name in names] == pytest.approx(expected, abs=0.05)
        assert found["mean"]["value"] == pytest.approx(sum(expected) / 3, abs=0.03)
    for part, expected in {"c": (0, 1, 0), "slots": (0, 0, 1)}.items():
        found = figures["gain"][part]
        assert [found[name]["value"] for name in names] == pytest.approx(expected, abs=0.05)
        assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in found.values())
        assert 0.25 < found["mean"]["low"] < found["mean"]["high"] < 0.4
    assert "fixed" not in figures["r2"]["z"]  # nothing can be said of what never changes


def test_intervals_are_over_episodes():
    alike = probes.Judged(torch.full((8, 1), 2.0).double(), torch.full((8, 1), 8.0).double())
    same = probes.with_interval(probes.r2(alike, COUNTS)[:, 0])
    assert same == pytest.approx({"value": 0.75, "low": 0.75, "high": 0.75})
    errors = torch.tensor([0, 0, 0, 0, 8, 8, 8, 8]).double()[:, None]
    mixed = probes.with_interval(probes.r2(alike._replace(error=errors), COUNTS)[:, 0])
    assert mixed["value"] == pytest.approx(0.5)
    assert mixed["low"] == pytest.approx(0.125)  # 1 of 8 drawn without an error, and 7 of 8: binomial
    assert mixed["high"] == pytest.approx(0.875)
