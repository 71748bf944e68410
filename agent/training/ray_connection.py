"""The connection to a Ray cluster. Its nodes share this machine's file system and Python."""

import logging
import os
import socket
from pathlib import Path
from typing import Any

from envs.packages import check_installed
from envs.wording import one_line

_ROOT = Path(__file__).resolve().parents[2]  # where our packages are
_SECONDS = 5.0  # to reach the head


def connect(address: str | None, option: str) -> Any:
    """Connect to the Ray cluster at `address` (None: RAY_ADDRESS, else the one on this machine); return the module.

    ValueError in one line that names the `option`, within seconds, if Ray is missing or no cluster answers.
    """
    check_installed("ray", option)
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if address != "auto":
        _check_head(address, option)
    import ray

    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(_ROOT)}},
        )
    except Exception as error:  # of many types
        started = "expected a cluster, such as the one that `ray start --head` begins"
        raise ValueError(f"{option}: got '{address}', {started} ({one_line(error, 150)})") from None
    return ray


def _check_head(address: str, option: str) -> None:
    """Raise a one-line ValueError unless something listens at the address: Ray itself waits for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{option}: got '{address}', expected an address like 10.0.0.1:6379 or ray://10.0.0.1:10001")
    try:
        socket.create_connection((host, int(port)), _SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"{option}: got '{address}', where no Ray head answers ({one_line(error)})") from None
