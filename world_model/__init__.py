"""The DPGMM variational recurrent world model, on tensors only: independent of environments and replay.

The heavy module is imported on first use, so that reading a configuration does not import torch.
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
