"""Comparing what checkpoints hold, and whole runs."""

import json
from typing import Any

import numpy as np
import torch

from agent.run_folder.checkpoint import load_newest
from replay import EpisodeStore

CLOCKS = {"wall_seconds", "updates_per_second"}  # all that may differ from run to run


def assert_same(left: Any, right: Any, where: str = "payload") -> None:
    """Two payloads of checkpoints are the same bit for bit, clocks aside, on whatever device."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for key in left.keys() - CLOCKS:
            assert_same(left[key], right[key], f"{where}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for i, (a, b) in enumerate(zip(left, right, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left.cpu(), right.cpu()), where
    else:
        assert left == right, where


def lines(logdir):
    """The lines of a run's metrics, clocks aside."""
    rows = [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]


def assert_same_run(first, second):
    """Two runs are the same bit for bit: newest checkpoint, metrics, stored episodes."""
    assert_same(load_newest(first / "checkpoints")[0], load_newest(second / "checkpoints")[0])
    assert lines(first) == lines(second)
    ours, theirs = (EpisodeStore(logdir / "episodes") for logdir in (first, second))
    assert [path.name for path in ours.paths()] == [path.name for path in theirs.paths()]
    for a, b in zip(ours.load_all(), theirs.load_all(), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
