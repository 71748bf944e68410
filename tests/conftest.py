"""The slowest files begin first, so that no worker is left with one of them while the others have nothing to do."""

import pytest

SLOWEST = ("test_learning.py", "test_mutations.py", "test_learning_benchmark.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move their tests to the front; xdist hands files out in this order (--no-loadscope-reorder)."""
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))
