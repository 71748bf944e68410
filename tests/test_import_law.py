"""The import law of shared/design/ARCHITECTURE.md, read from the sources: data flows one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("envs", "replay", "multi_task_learning", "world_model", "agent")
ALLOWED = {  # what each room may import of ours, itself aside
    "envs": set(),
    "replay": {"envs"},
    "multi_task_learning": set(),
    "world_model": {"multi_task_learning"},
    "agent": {"envs", "replay", "multi_task_learning", "world_model"},
    "run_agent": {"envs", "replay", "multi_task_learning", "world_model", "agent"},
}
PILLARS = ("perceiver_io", "generative_prior", "encoder_decoder", "temporal_dynamics", "attention_schema")
SOURCES = [ROOT / "run_agent.py", *(p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py")))]


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in it; relative imports are made absolute."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_sources_are_found():
    assert len(SOURCES) > 40
    assert {room(path) for path in SOURCES} == set(ALLOWED)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_point_left_only(path):
    ours = {module.split(".")[0] for module in imports(path)} & set(ALLOWED)
    assert ours - {room(path)} <= ALLOWED[room(path)]


@pytest.mark.parametrize("path", [p for p in SOURCES if room(p) == "envs"], ids=name)
def test_environments_never_import_torch(path):
    heads = {module.split(".")[0] for module in imports(path)}
    assert heads.isdisjoint({"torch", "stable_baselines3", "torchjd"})


@pytest.mark.parametrize("path", [p for p in SOURCES if room(p) == "world_model"], ids=name)
def test_pillars_do_not_know_each_other_and_only_the_model_balances(path):
    parts = path.relative_to(ROOT).parts
    modules = {tuple(module.split(".")) for module in imports(path)}
    if parts[1] in PILLARS:
        inside = {module[1] for module in modules if module[0] == "world_model" and len(module) > 1}
        assert inside <= {parts[1], "layers", "distributions"}
    if parts != ("world_model", "model.py"):
        assert not any(module[0] == "multi_task_learning" for module in modules)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_are_short_and_no_attic(path):
    assert path.stem not in {"utils", "util", "tools", "misc", "common", "helpers"}
    text = path.read_text()
    assert len(text.splitlines()) < 500
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert [found for found in lengths.items() if found[1] > 60 and found[0] != "expected_ranges"] == []  # a table
