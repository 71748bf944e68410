"""The global random states of the process, which this package does not use, but a user's environment may."""

import random
from typing import Any

import numpy as np
import torch


def global_random_state() -> dict[str, Any]:
    """Return Python's, numpy's (legacy) and torch's states, on every device, as plain values and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).copy()), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_global_random_state(state: dict[str, Any]) -> None:
    """Restore `global_random_state`; GPU states are skipped if the number of GPUs differs."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def seed_global_random_state(seed: int) -> None:
    """Seed all global random states, so that two runs of one seed are equal."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
