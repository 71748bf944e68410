"""Processes ("ranks") that train one model together, each on its share of every batch, and the values they agree on.

Statistics that a batch decides are those of the whole batch: with R ranks of B / R chunks each, an update computes what
one process computes on all B. Outside of `shared_batch` every function here returns what it was given.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

_is_shared: ContextVar[bool] = ContextVar("is_shared", default=False)


@contextmanager
def shared_batch() -> Iterator[None]:
    """Treat batches inside the block as shares of one batch, of equal size on every rank of torch.distributed.

    All ranks must do the same inside the block: a statistic waits for those of the others.
    """
    token = _is_shared.set(dist.is_available() and dist.is_initialized())
    try:
        yield
    finally:
        _is_shared.reset(token)


def rank_count() -> int:
    """Return the number R of ranks that share the current batch; 1 for a process of its own."""
    return dist.get_world_size() if _is_shared.get() else 1


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace floating tensors of one dtype and device, in place, by their means over the ranks."""
    if not _is_shared.get() or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])  # one exchange for all
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, piece in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients of parameters, where there are any, by their means over the ranks."""
    average([parameter.grad for parameter in parameters if parameter.grad is not None])


def total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over the ranks, without gradient."""
    if not _is_shared.get():
        return value
    result = value.detach().clone()
    dist.all_reduce(result)
    return result


def mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the ranks.

    Its gradient reaches this rank's part as if there were no other: the mean of all ranks' gradients is then the one
    of the whole batch.
    """
    if not _is_shared.get():
        return value
    return total(value) / dist.get_world_size() + (value - value.detach())


def interleave(rows: Tensor) -> Tensor:
    """Return rows [N, ...] that the ranks draw in turn: row i is the one of rank i % R."""
    if not _is_shared.get():
        return rows
    turn = torch.arange(len(rows), device=rows.device) % dist.get_world_size() == dist.get_rank()
    return total(torch.where(turn.view(-1, *[1] * (rows.ndim - 1)), rows, 0.0))


def gather(value: Tensor) -> Tensor:
    """Return the tensors [N, ...] of all ranks as one [R N, ...], without gradient."""
    if not _is_shared.get():
        return value
    parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value.detach().contiguous())
    return torch.cat(parts)
