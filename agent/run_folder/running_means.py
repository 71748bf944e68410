"""Means of metrics between two lines of a log, without a host synchronisation before they are taken."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Sums metrics where they are, on their device, until `take`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take one update's metrics in; a metric need not be there every time."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] += 1

    def take(self) -> dict[str, float]:
        """The means since the last time."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return means

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on where `state_dict` was taken."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._counts = Counter(state["counts"])
