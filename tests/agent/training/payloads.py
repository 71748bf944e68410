"""Comparing what checkpoints hold."""

from typing import Any

import torch

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
