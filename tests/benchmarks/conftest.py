"""Benchmarks run in the tests' own process: what they set there is set back."""

import pytest
import torch


@pytest.fixture(autouse=True)
def keep_threads(monkeypatch: pytest.MonkeyPatch):
    """torch's number of threads, and LP_NUM_THREADS, which speed.environments sets, as before the test."""
    monkeypatch.setenv("LP_NUM_THREADS", "0")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
