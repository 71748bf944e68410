"""The imports among our own modules, read from the sources: deferred ones and those for type checkers count too.

    python tests/import_graph.py

prints the circles, every import that points up in the order of rooms, and the sizes of files and functions; the exit
status is 1 where there is a circle or an import that points up.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("envs", "replay", "multi_task_learning", "world_model", "agent", "benchmarks")
ALLOWED = {  # what each package may import of ours, itself aside
    "envs": set(),
    "replay": {"envs"},
    "multi_task_learning": set(),
    "world_model": {"multi_task_learning"},
    "agent": {"envs", "replay", "multi_task_learning", "world_model"},
    "run_agent": {"envs", "replay", "multi_task_learning", "world_model", "agent"},
    "benchmarks": {"envs", "replay", "multi_task_learning", "world_model", "agent", "run_agent"},
}
# The rooms of agent/, from the bottom up: a room imports only from itself and those before it.
ROOMS = (
    "config",
    "learning",
    "run_folder",
    "evaluation",
    "video",
    "training",
    "report",
    "stable_baselines",
    "sweep",
    "commands",
)

Graph = dict[str, set[str]]  # module -> modules of ours that it imports


def sources() -> dict[str, Path]:
    """Dotted name -> file of every module; a package's name is that of its __init__.py."""
    paths = [ROOT / "run_agent.py", *(path for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py")))]
    return {_name(path): path for path in paths}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in it; relative imports are made absolute."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return found


def graph() -> Graph:
    """Every module with the modules that it imports; "from package import module" is an import of the module."""
    files = sources()
    found: Graph = {}
    for name, path in files.items():
        targets = {_module(dotted, files) for dotted in imported(path)}
        found[name] = {target for target in targets if target is not None and target != name}
    return found


def _module(dotted: str, files: dict[str, Path]) -> str | None:
    """The module of ours that a dotted name is, or is of; None for another library's."""
    parts = dotted.split(".")
    candidates = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in candidates if name in files), None)


def circles(edges: Graph) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in edges[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = stack.index(name)
            group = stack[at:]
            del stack[at:]
            if len(group) > 1:
                found.append(sorted(group))

    for name in edges:
        if name not in index:
            visit(name)
    return found


def room(name: str) -> str | None:
    """The room of agent/ that a module is in; None for the package itself and for other packages."""
    parts = name.split(".")
    return parts[1] if parts[0] == "agent" and len(parts) > 1 else None


def upward(edges: Graph) -> Iterator[tuple[str, str]]:
    """Imports that the order of packages or rooms does not allow: (module, what it imports)."""
    for name, targets in edges.items():
        head, at = name.split(".")[0], room(name)
        for target in sorted(targets):
            other = target.split(".")[0]
            if other != head and other not in ALLOWED[head]:
                yield name, target
            above = room(target)
            if at is not None and above is not None and ROOMS.index(above) > ROOMS.index(at):
                yield name, target


def function_lengths(path: Path) -> dict[str, int]:
    """Lines of every function of a file, from its `def` on."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, functions)]
    return {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in nodes}


def main() -> int:
    """Print what there is to know of the graph."""
    edges, files = graph(), sources()
    found, wrong = circles(edges), list(upward(edges))
    print(f"{len(edges)} modules, {sum(map(len, edges.values()))} imports among them, {len(found)} circles")
    for group in found:
        print(f"  circle: {', '.join(group)}")
    for name, target in wrong:
        print(f"  upward: {name} imports {target}")
    for at in ROOMS:
        members = [name for name in edges if room(name) == at]
        below = {room(target) for name in members for target in edges[name]} - {at, None}
        print(f"  agent/{at:<17}{len(members):>3} files, imports {', '.join(r for r in ROOMS if r in below) or 'none'}")
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files.items()}
    lengths = {f"{n}.{f}": size for n, path in files.items() for f, size in function_lengths(path).items()}
    for kind, sizes in (("file", lines), ("function", lengths)):
        largest = max(sizes, key=lambda name: sizes[name])
        print(f"{kind}: median {median(sizes.values()):g} lines, largest {sizes[largest]} ({largest})")
    return int(bool(found or wrong))


if __name__ == "__main__":
    sys.exit(main())
