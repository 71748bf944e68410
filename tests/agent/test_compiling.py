"""Compiled loops: the same results to rounding, other shapes and failures run eagerly."""

import logging
import shutil

import pytest
import torch

from agent.agent import Agent
from agent.compiling import Compiled
from agent.config import make_config
from replay import Chunk

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of its own compiler


def make_agent() -> Agent:
    sizes = {"replay.batch_size": 2, "replay.batch_length": 2, "behavior.horizon": 2}
    return Agent(make_config("debug", "reaching", {**sizes, "world_model.max_components": 2}), 1, "cpu")


def make_chunk() -> Chunk:
    random = torch.Generator().manual_seed(0)
    flags = torch.zeros(2, 2, dtype=torch.bool)
    image = torch.randint(0, 256, (2, 2, 64, 64, 3), generator=random, dtype=torch.uint8)
    reward, action = torch.rand(2, 2, generator=random), 2 * torch.rand(2, 2, 1, generator=random) - 1
    return Chunk(image, reward, flags, flags, flags, action)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_updates_are_the_eager_ones_to_rounding() -> None:
    """Two updates, the second of weights that the first has moved."""
    eager, compiled = make_agent(), make_agent()
    compiled.compile()
    for update in range(2):
        found, expected = compiled.update(make_chunk()), eager.update(make_chunk())
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
