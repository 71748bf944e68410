"""probes: figures of made-up data whose answers are known by hand, and the command on a small run."""

import json
import math

import numpy as np
import pytest
import torch

from agent import Agent, make_config
from benchmarks.learning import probes
from benchmarks.learning.held_out import play
from envs.counting import decode_frame

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


def test_the_context_is_credited_with_what_the_carry_does_not_predict():
    z = noise(16, 60, 2)
    context = z.roll(-1, 1)  # the next latent, and of no later one anything
    found = probes.context_figures({"z": z, "g": noise(16, 60, 3, seed=1), "c": context}, noise(16, 60, 1), COUNTS)
    assert set(found["gain"]) == {f"{known} a, +{k}" for known in ("g", "z g") for k in (1, 5, 15)}
    for known in ("g", "z g"):
        assert found["without c"][f"{known} a, +1"]["value"] == pytest.approx(0, abs=0.05)
        assert found["with c"][f"{known} a, +1"]["value"] == pytest.approx(1, abs=0.01)
        assert found["gain"][f"{known} a, +1"]["low"] > 0.9
        assert found["gain"][f"{known} a, +5"]["value"] == pytest.approx(0, abs=0.05)


def test_information_of_an_index_that_equals_the_bins_is_their_entropy():
    index = np.random.default_rng(0).integers(0, 4, (8, 200))
    names = np.array([6, 2, 9, 4])[index]  # components may be numbered in any way
    found = probes.information(names, 10.0 * index, seed=0)
    assert found["entropy of bins"] == pytest.approx(math.log(4), abs=0.01)
    assert found["information"] == pytest.approx(found["entropy of bins"])
    assert found["excess"] == pytest.approx(math.log(4), abs=0.02)


def test_an_index_that_knows_the_next_rewards_is_told_so():
    rewards = torch.randint(0, 2, (8, 60), generator=torch.Generator().manual_seed(0)).float()
    sums = [[float(row[t + 1 : t + 16].sum()) for t in range(60 - 15)] for row in rewards]
    index = torch.zeros(8, 60, dtype=torch.long)
    index[:, :45] = torch.from_numpy(probes.in_bins(np.array(sums)))
    shares = 0.1 + 0.6 * torch.nn.functional.one_hot(index, 4)
    speed = {"qvel/x": 3.0 * index.double(), "qvel/y": 4.0 * index.double(), "qpos/x": noise(8, 60).double()}
    found = probes.mixture_figures(shares, rewards, speed, seed=0)
    for name in ("next 15 rewards", "speed"):
        assert found["information"][name]["information"] == pytest.approx(found["information"][name]["entropy of bins"])
    assert "speed" not in probes.mixture_figures(shares, rewards, {"qpos/x": speed["qpos/x"]}, seed=0)["information"]
    counts = np.bincount(index.flatten()) / index.numel()
    assert found["in use by index"] == pytest.approx(math.exp(-(counts * np.log(counts)).sum()))
    assert found["in use by index"] < found["in use"] < 4  # responsibilities are spread more evenly than the index


def test_information_by_hand():
    a, b = np.array([[0, 0, 0, 1]]), np.array([[0, 0, 1, 1]])
    by_hand = 0.5 * math.log(0.5 / (0.75 * 0.5)) + 0.25 * math.log(0.25 / (0.75 * 0.5)) + 0.25 * math.log(2)
    assert probes.mutual_information(a, b) == pytest.approx(by_hand)
    assert probes.mutual_information(b, np.zeros_like(b)) == 0


def test_what_chance_gives_to_slow_unrelated_rows_is_not_information():
    slow = np.repeat(np.random.default_rng(0).integers(0, 8, (8, 4)), 50, axis=1)  # 32 draws, not 1,600
    values = np.repeat(np.random.default_rng(1).random((8, 4)), 50, axis=1)
    found = probes.information(slow, values, seed=0)
    assert found["information"] > 0.2
    assert found["by chance"] > 0.2
    assert found["information"] < found["95 % of chance"]
    fast = probes.information(np.random.default_rng(0).integers(0, 8, (8, 200)), values, seed=0)
    assert abs(fast["excess"]) < 0.01


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        (np.arange(100.0), [25, 25, 25, 25]),
        (np.r_[np.zeros(80), np.arange(1.0, 21.0)], [80, 20]),  # a reward that seldom comes
        (np.r_[np.full(90, 60.0), np.arange(10.0)], [10, 90]),  # one that seldom fails
        (np.ones(100), [100]),
    ],
)
def test_bins_are_as_full_as_ties_allow(values, sizes):
    mixed = np.random.default_rng(0).permutation(values)
    bins = probes.in_bins(mixed)
    assert np.bincount(bins).tolist() == sizes
    assert (np.diff(bins[np.argsort(mixed)]) >= 0).all()


@pytest.mark.parametrize("is_on", [True, False])
def test_pillars_that_are_off_have_no_figures(is_on):
    parts = ("perceiver_config", "attention_config")
    changes = {f"world_model.{part}.enabled": is_on for part in parts}
    changes["world_model.max_components"] = 3 if is_on else 1
    agent = Agent(make_config("debug", "counting", changes), action_dim=2)
    data = play(agent, 4, 0, "sample")
    found = probes.read(agent, data.frames, data.actions, 0)
    assert set(found) == {"frame", "z", "g"} | ({"c", "slots", "responsibilities"} if is_on else set())
    figures = probes.state_figures(found, data.simulator, probes.resamples(2, 0))
    assert list(figures["r2"]) == (list(probes.SOURCES) if is_on else ["frame", "z", "g", "z g"])
    assert list(figures["gain"]) == (["c", "slots"] if is_on else [])
    assert bool(probes.context_figures(found, data.actions, probes.resamples(2, 0))) is is_on


def test_the_simulator_state_is_that_of_the_frame():
    agent = Agent(make_config("debug", "counting", {}), action_dim=2)
    data = play(agent, 2, 0, "sample")
    images = (255 * data.frames).round().byte().movedim(2, -1).numpy()
    np.testing.assert_array_equal(decode_frame(images)[2], data.simulator["step"])


def test_the_command_tells_the_same_figures_twice(finished_run, tmp_path, capsys):
    reports = []
    for name in ("a.json", "b.json"):
        assert probes.main([str(finished_run), "--episodes", "4", "--json", str(tmp_path / name)]) == 0
        reports.append(json.loads((tmp_path / name).read_text()))
    printed = capsys.readouterr().out
    assert "R² beyond z g" in printed
    assert "next 5 rewards" in printed
    assert {part: reports[0][part] for part in ("run", "state", "mixture", "context")} == {
        part: reports[1][part] for part in ("run", "state", "mixture", "context")
    }
    assert reports[0]["run"]["return"] == 55.0  # 1 + 2 + ... + 10
    assert reports[0]["state"]["r2"]["frame"]["step"]["value"] > 0.95  # the brightness of half the frame
    # sums of five rewards: 15, 20, ..., 40, six different ones; the four bins are equally full but for ties
    found = reports[0]["mixture"]["information"]["next 5 rewards"]
    assert math.log(4) - 0.1 < found["entropy of bins"] <= math.log(4)


@pytest.mark.parametrize(
    ("options", "line"), [(["--episodes", "3"], "episodes: got 3, expected at least 4"), ([], "nowhere")]
)
def test_bad_input_is_one_line(tmp_path, options, line, capsys):
    assert probes.main([str(tmp_path / "nowhere"), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error
