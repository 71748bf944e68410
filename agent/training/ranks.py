"""The ranks of a run, processes that `torchrun` starts to train one agent, and what they exchange between updates.

What they exchange inside an update is in `world_model.ranks`. A process without torchrun is alone and exchanges
nothing.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import numpy as np

from agent.config.settings import Config
from agent.learning.errors import NotFinite
from agent.training.stopping import Stopped
from envs.wording import describe_error, one_line

RENDEZVOUS_SECONDS = 300.0  # for all ranks to arrive
_PATIENCE = timedelta(
    hours=2
)  # for the others at an exchange: evaluations and checkpoints of the first rank lie between


class RankFailed(RuntimeError):
    """Another rank failed, ended or does not answer, so that this one cannot continue."""


class Ranks:
    """One process of the `count` that train one agent, the one of number `index`; alone by default.

    All ranks call the same methods in the same order. RankFailed if another one has ended.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        self.index, self.count = index, count

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that evaluates and writes logs and checkpoints."""
        return self.index == 0

    # ---------------------------------------------------------------- exchanges

    def total(self, *numbers: int) -> list[int]:
        """Return the sums of whole numbers over the ranks."""
        return [int(value) for value in self._reduce(numbers, "int64")]

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set on any rank."""
        return self.total(flag)[0] > 0

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the means of numbers over the ranks, which have the same names on all of them."""
        if self.count == 1:
            return dict(values)
        return dict(
            zip(values, (total / self.count for total in self._reduce(values.values(), "float64")), strict=True)
        )

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, in order; pickle takes them there."""
        if self.count == 1:
            return [value]
        from torch import distributed as dist

        found = [None] * self.count
        with _losses_told():
            dist.all_gather_object(found, value)
        return found

    def _reduce(self, numbers: Any, dtype: str) -> list[Any]:
        if self.count == 1:
            return list(numbers)
        import torch
        from torch import distributed as dist

        values = torch.tensor(list(numbers), dtype=getattr(torch, dtype))
        with _losses_told():
            dist.all_reduce(values)
        return values.tolist()

    @contextmanager
    def shared_batch(self) -> Iterator[None]:
        """Treat batches inside the block as shares of one batch."""
        if self.count == 1:
            yield
            return
        from world_model.ranks import shared_batch

        with _losses_told(), shared_batch():
            yield

    # ---------------------------------------------------------------- errors

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block without exchanges on every rank, and raise an error of one of them on all.

        What ends or changes a run (NotFinite, EnvironmentFailure, Stopped) keeps its type, others become RankFailed.
        """
        if self.count == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as found:
            error = found
        if not self.any(error is not None):
            return
        told = self.gather(None if error is None else (type(error).__name__, _describe(error)))
        index, (kind, line) = next((index, found) for index, found in enumerate(told) if found is not None)
        if error is not None and index == self.index:
            raise error
        raise _kinds().get(kind, RankFailed)(f"rank {index}: {line}")

    @contextmanager
    def reported_once(self) -> Iterator[None]:
        """Let the first rank alone report an error that all raise: it gets that or a ValueError, they SystemExit(2)."""
        try:
            yield
        except Exception as error:
            if self.count == 1:
                raise
            if not self.is_first:
                raise SystemExit(2) from None
            if isinstance(error, RankFailed):
                raise ValueError(str(error)) from None
            raise

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raise ValueError on all ranks, naming the first difference, unless all have the same values by name."""
        first, *others = self.gather(dict(values))
        for index, found in enumerate(others, start=1):
            for name in first | found:
                if found.get(name) != first.get(name):
                    got = f"{name}: got {found.get(name)!r} on rank {index}, expected {first.get(name)!r} as on rank 0"
                    raise ValueError(f"{got}; start the same command and version everywhere, over one shared folder")

    # ---------------------------------------------------------------- a rank's own part

    def share(self, config: Config) -> Config:
        """Return the config of this rank's own part: its share of batch and replay, and a seed of its own.

        ValueError for a batch that the ranks do not divide, and for what runs on one process only.
        """
        if self.count == 1:
            return config
        replay, method = config.replay, config.world_model.gradient_method
        if config.algo != "aime":
            raise ValueError(f"algo: got '{config.algo}' on {self.count} ranks, expected 'aime'")
        if config.env.collectors is not None:
            raise ValueError(f"env.collectors: got {config.env.collectors} on {self.count} ranks, expected null")
        if method == "pcgrad":  # draws the order of the tasks anew in every process
            raise ValueError(f"world_model.rgb_config.method: got '{method}' on {self.count} ranks, expected another")
        if replay.batch_size % self.count:
            got = f"got {replay.batch_size} on {self.count} ranks"
            raise ValueError(f"replay.batch_size: {got}, expected a multiple of {self.count}, to be divided among them")
        part: dict[str, Any] = {
            "batch_size": replay.batch_size // self.count,
            "capacity_steps": replay.capacity_steps // self.count,
        }
        if replay.capacity_gb is not None:
            part["capacity_gb"] = replay.capacity_gb / self.count
        return replace(config, seed=self._seed(config.seed), replay=replace(replay, **part))

    def _seed(self, seed: int) -> int:
        return seed if self.is_first else int(np.random.SeedSequence((seed, self.index)).generate_state(1)[0])

    def use_device(self, name: str) -> None:
        """Choose this rank's GPU, its number on this machine, if `name` is a GPU. ValueError if there is none."""
        if self.count == 1:
            return
        import torch

        from agent.learning.agent import choose_device

        if choose_device(name).type == "cuda":
            local, gpus = _variable("LOCAL_RANK"), torch.cuda.device_count()
            if local >= gpus:
                got = f"got rank {local} of this machine, which has {gpus} GPUs"
                raise ValueError(f"--nproc-per-node: {got}, expected one rank per GPU (or --device cpu)")
            torch.cuda.set_device(local)

    def leave(self) -> None:
        """Close the connections to the other ranks, at the end of a run that succeeded."""
        if self.count > 1:
            from torch import distributed as dist

            dist.destroy_process_group()


def join(seconds: float = RENDEZVOUS_SECONDS) -> Ranks:
    """Return this process among those of torchrun, once all have arrived; alone without torchrun.

    ValueError if the environment's variables are incomplete, or some have not arrived after `seconds`.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Ranks()
    count, index, port = _variable("WORLD_SIZE", 1), _variable("RANK"), _variable("MASTER_PORT", 1)
    address = os.environ.get("MASTER_ADDR", "")
    if index >= count or not address:
        raise ValueError(
            f"RANK, MASTER_ADDR: got {index} of {count} and '{address}'; expected those that torchrun sets"
        )
    import torch
    import torch.distributed.nn  # later, its functions' default arguments would keep the group, and its threads, alive
    from torch import distributed as dist

    limit = timedelta(seconds=seconds)
    try:
        if index > 0:
            _wait_for(address, port, seconds)
        store, _, _ = next(dist.rendezvous("env://", timeout=limit))
        store = dist.PrefixStore(_agree_on_name(store, index, count, seconds), store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=index, world_size=count, timeout=_PATIENCE)
    except (RuntimeError, OSError):
        line = f"rank {index} of {count}: not all ranks arrived at {address}:{port} within {seconds:g} s"
        raise ValueError(f"{line}; are all of them started, and can they reach that address?") from None
    return Ranks(index, count)


def _agree_on_name(store: Any, index: int, count: int, seconds: float) -> str:
    """Return a name that these processes share, once all have arrived, and that nobody had before.

    After a restart torchrun's store still holds what the dead processes wrote. So each rank greets with a new name, and
    the first one answers under that name. TimeoutError after `seconds`, or torch's own after the store's time-out.
    """
    own, end = uuid4().hex, time.monotonic() + seconds
    if index > 0:
        store.set(f"greeting/{index}", own)
        name: str = store.get(own).decode()  # waits
        store.set(f"{name}/{index}", "arrived")
        return name
    missing = set(range(1, count))
    while missing:
        if time.monotonic() > end:
            raise TimeoutError
        for other in sorted(missing):
            if store.check([f"{own}/{other}"]):
                missing.remove(other)
            elif store.check([f"greeting/{other}"]):  # perhaps a dead one's; a living one replaces it
                store.set(store.get(f"greeting/{other}").decode(), own)
        time.sleep(0.02)
    return own


def _wait_for(address: str, port: int, seconds: float) -> None:
    """Wait until a port accepts connections; TimeoutError after `seconds`. torch would print its stack meanwhile."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection((address, port), timeout=max(0.1, end - time.monotonic())):
            return
        time.sleep(0.2)
    raise TimeoutError


def _variable(name: str, least: int = 0) -> int:
    """Return a whole number from the environment, at least `least`. ValueError if it is missing or something else."""
    text = os.environ.get(name, "")
    if not text.isdecimal() or int(text) < least:
        asked = os.environ.get("WORLD_SIZE", "")
        expected = "expected the number that torchrun sets; for one process unset WORLD_SIZE"
        raise ValueError(f"{name}: got '{text}' with WORLD_SIZE={asked}, {expected}")
    return int(text)


def _describe(error: Exception) -> str:
    """Return an error's text; with its type if it is an unexpected one."""
    return one_line(error) if isinstance(error, ValueError | OSError | RuntimeError) else describe_error(error)


def _kinds() -> dict[str, type[Exception]]:
    """Return the errors that mean the same on all ranks, by name."""
    from envs.driver import EnvironmentFailure  # gymnasium's import

    return {kind.__name__: kind for kind in (NotFinite, EnvironmentFailure, Stopped)}


@contextmanager
def _losses_told() -> Iterator[None]:
    """Raise RankFailed for an exchange that failed because another rank has ended."""
    from torch import distributed as dist

    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            line = "another rank of this run has ended or does not answer"
            raise RankFailed(f"{line}; the run continues from its last checkpoint when all are started again") from None
        raise
