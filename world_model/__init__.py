"""The DPGMM variational recurrent world model. Tensors in, tensors out: it knows neither environments nor replay.

The heavy module is imported on first use, so that reading a configuration costs no torch import.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from world_model.model import DPGMMVariationalRecurrentAutoencoder

__all__ = ["DPGMMVariationalRecurrentAutoencoder"]


def __getattr__(name: str) -> Any:
    if name == "DPGMMVariationalRecurrentAutoencoder":
        from world_model.model import DPGMMVariationalRecurrentAutoencoder

        return DPGMMVariationalRecurrentAutoencoder
    raise AttributeError(f"module 'world_model' has no attribute {name!r}")
