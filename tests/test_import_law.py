"""The import law, read from the sources: data flows one way, through folders that tell what they are."""

from pathlib import Path

import pytest

from tests.import_graph import ROOMS, ROOT, circles, function_lengths, graph, imported, room, sources, upward

PILLARS = ("perceiver_io", "generative_prior", "encoder_decoder", "temporal_dynamics", "attention_schema")
FILES = sources()
EDGES = graph()
EACH = pytest.mark.parametrize("path", FILES.values(), ids=FILES.keys())


def test_the_sources_are_found():
    assert len(FILES) > 150
    assert {room(name) for name in FILES} - {None} == set(ROOMS)
    assert "agent.training.trainer" in EDGES["run_agent"] | EDGES["agent.commands.train"]


def test_no_circles():
    assert circles(EDGES) == []


def test_a_circle_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_packages_and_rooms_import_from_below_only():
    assert list(upward(EDGES)) == []
    assert list(upward({"envs.step": {"replay"}, "agent.config.files": {"agent.learning.agent"}})) == [
        ("envs.step", "replay"),
        ("agent.config.files", "agent.learning.agent"),
    ]


@pytest.mark.parametrize("path", [p for name, p in FILES.items() if name.split(".")[0] == "envs"], ids=str)
def test_environments_never_import_torch(path: Path):
    heads = {module.split(".")[0] for module in imported(path)}
    assert heads.isdisjoint({"torch", "stable_baselines3", "torchjd"})


@pytest.mark.parametrize("path", [p for name, p in FILES.items() if name.split(".")[0] == "world_model"], ids=str)
def test_pillars_do_not_know_each_other_and_only_the_model_balances(path: Path):
    parts = path.relative_to(ROOT).parts
    modules = {tuple(module.split(".")) for module in imported(path)}
    if parts[1] in PILLARS:
        # of the rest: layers, settings, what a prior is, and statistics of a batch that several processes share
        inside = {module[1] for module in modules if module[0] == "world_model" and len(module) > 1}
        assert inside <= {
            parts[1],
            "layers",
            "distributions",
            "config",
            "prior",
            "ranks",
        }  # ranks: statistics of a batch
    if parts != ("world_model", "model.py"):
        assert not any(module[0] == "multi_task_learning" for module in modules)


def test_only_the_registry_knows_which_priors_there_are():
    """What else meets a prior does so by `world_model.prior`'s Protocol."""
    outside = {name: path for name, path in FILES.items() if not name.startswith("world_model.generative_prior")}
    known_to = [name for name, path in outside.items() if any("generative_prior" in x for x in imported(path))]
    assert known_to == ["world_model.parts"]


@EACH
def test_files_and_functions_are_short_and_no_attic(path: Path):
    assert path.stem not in {"utils", "util", "tools", "misc", "common", "helpers"}
    assert len(path.read_text(encoding="utf-8").splitlines()) < 500
    assert [found for found in function_lengths(path).items() if found[1] > 60] == []
