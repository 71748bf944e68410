"""Compiled loops: the same results to rounding, other shapes and failures run eagerly."""

import logging
import shutil

import pytest
import torch

from agent.learning.compiling import Compiled
from tests.agent.learning.small_agent import make_agent, make_chunk

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of its own compiler


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_updates_are_the_eager_ones_to_rounding() -> None:
    """Two updates, the second of weights that the first has moved."""
    eager, compiled = (make_agent(behavior__horizon=2, world_model__max_components=2) for _ in range(2))
    compiled.compile()
    for update in range(2):
        found, expected = compiled.update(make_chunk(2, 2)), eager.update(make_chunk(2, 2))
        for name in ("recon_loss", "kl_bound", "reward_nll", "context_nll", "actor_loss", "critic_loss"):
            torch.testing.assert_close(
                found[name], expected[name], rtol=1e-4, atol=1e-5, msg=f"{name}, update {update}"
            )
    for scan in (compiled.model.scan, compiled.behavior_learner.roll):
        assert isinstance(scan, Compiled)
        assert scan.compiled is not None  # it did not fall back


def test_other_shapes_run_eagerly() -> None:
    calls: list[int] = []

    def double(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))  # seen while tracing, and whenever it runs eagerly
        return 2 * x

    function = Compiled(double, "doubling")
    function.compiled = lambda x: 3 * x
    assert function(torch.ones(2)).tolist() == [3, 3]
    assert function(torch.ones(3)).tolist() == [2, 2, 2]
    with torch.no_grad():
        assert function(torch.ones(2)).tolist() == [2, 2]
    assert calls == [3, 2]


def test_where_compiling_fails_one_line_says_so(caplog) -> None:
    def broken(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no C++ compiler\nand a long explanation")

    function = Compiled(lambda x: 2 * x, "dream")
    function.compiled = broken
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert function(torch.ones(1)).item() == 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2  # that it begins, and that it failed; the second call says nothing
    assert said[-1] == "the dream is not compiled and runs eagerly: no C++ compiler"
