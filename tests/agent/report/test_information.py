"""Mutual information on made-up data whose answers are known by hand."""

import math

import numpy as np
import pytest
import torch

from agent.report import information


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_information_of_an_index_that_equals_the_bins_is_their_entropy():
    index = np.random.default_rng(0).integers(0, 4, (8, 200))
    names = np.array([6, 2, 9, 4])[index]  # components may be numbered in any way
    found = information.information(names, 10.0 * index, seed=0)
    assert found["entropy of bins"] == pytest.approx(math.log(4), abs=0.01)
    assert found["information"] == pytest.approx(found["entropy of bins"])
    assert found["excess"] == pytest.approx(math.log(4), abs=0.02)


def test_an_index_that_knows_the_next_rewards_is_told_so():
    rewards = torch.randint(0, 2, (8, 60), generator=torch.Generator().manual_seed(0)).float()
    sums = [[float(row[t + 1 : t + 16].sum()) for t in range(60 - 15)] for row in rewards]
    index = torch.zeros(8, 60, dtype=torch.long)
    index[:, :45] = torch.from_numpy(information.in_bins(np.array(sums)))
    shares = 0.1 + 0.6 * torch.nn.functional.one_hot(index, 4)
    speed = {"qvel/x": 3.0 * index.double(), "qvel/y": 4.0 * index.double(), "qpos/x": noise(8, 60).double()}
    found = information.mixture_figures(shares, rewards, speed, seed=0)
    for name in ("next 15 rewards", "speed"):
        assert found["information"][name]["information"] == pytest.approx(found["information"][name]["entropy of bins"])
    still = {"qpos/x": speed["qpos/x"], "contacts": torch.zeros(8, 60).double()}  # no velocity, and nothing touches
    assert list(information.mixture_figures(shares, rewards, still, seed=0)["information"]) == ["next 15 rewards"]
    touching = information.mixture_figures(shares, rewards, {"contacts": 1.0 * index.double()}, seed=0)["information"]
    assert touching["contacts"]["information"] == pytest.approx(touching["contacts"]["entropy of bins"])
    counts = np.bincount(index.flatten()) / index.numel()
    assert found["in use by index"] == pytest.approx(math.exp(-(counts * np.log(counts)).sum()))
    assert found["in use by index"] < found["in use"] < 4  # responsibilities are spread more evenly than the index


def test_information_by_hand():
    a, b = np.array([[0, 0, 0, 1]]), np.array([[0, 0, 1, 1]])
    by_hand = 0.5 * math.log(0.5 / (0.75 * 0.5)) + 0.25 * math.log(0.25 / (0.75 * 0.5)) + 0.25 * math.log(2)
    assert information.mutual_information(a, b) == pytest.approx(by_hand)
    assert information.mutual_information(b, np.zeros_like(b)) == 0


def test_what_chance_gives_to_slow_unrelated_rows_is_not_information():
    slow = np.repeat(np.random.default_rng(0).integers(0, 8, (8, 4)), 50, axis=1)  # 32 draws, not 1,600
    values = np.repeat(np.random.default_rng(1).random((8, 4)), 50, axis=1)
    found = information.information(slow, values, seed=0)
    assert found["information"] > 0.2
    assert found["by chance"] > 0.2
    assert found["information"] < found["95 % of chance"]
    fast = information.information(np.random.default_rng(0).integers(0, 8, (8, 200)), values, seed=0)
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
    bins = information.in_bins(mixed)
    assert np.bincount(bins).tolist() == sizes
    assert (np.diff(bins[np.argsort(mixed)]) >= 0).all()
