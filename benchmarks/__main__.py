"""Prints the benchmarks: `python -m benchmarks`."""

import ast
from pathlib import Path


def commands() -> dict[str, str]:
    """Name of each module whose docstring says how it is called -> the docstring's first line."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*/*.py")):
        name = f"benchmarks.{path.parent.name}.{path.stem}"
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if f"python -m {name}" in text:
            found[name] = text.splitlines()[0]
    return found


if __name__ == "__main__":
    for name, line in commands().items():
        print(f"python -m {name}\n    {line}")
