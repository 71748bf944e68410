"""Gradients of several losses with respect to a list of tensors, as the rows of a matrix [tasks, entries]."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

SHARED = -1  # two or more tasks reach the tensor
UNREACHED = -2

Average = Callable[[Sequence[Tensor]], None]  # replaces tensors in place by their means over several processes
Run = tuple[int, int, int]  # (owner, start, stop): columns whose tensors have the same owner


def trainable(params: Iterable[Tensor]) -> list[Tensor]:
    """Return the distinct tensors among `params` that require a gradient, in order."""
    return [param for param in dict.fromkeys(params) if param.requires_grad]


def checked_losses(task_losses: Sequence[Tensor], task_num: int | None) -> list[Tensor]:
    """Return the task losses as a list; ValueError unless they are scalar tensors, `task_num` of them if it is set."""
    losses = list(task_losses)
    for index, loss in enumerate(losses):
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            came = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"task_losses[{index}]: got {came}, expected a scalar tensor")
    if not losses:
        raise ValueError("task_losses: got none, expected at least one scalar tensor")
    if task_num is not None and task_num != len(losses):
        raise ValueError(f"task_losses: got {len(losses)} tasks, expected task_num = {task_num}")
    return losses


def alone(tensors: Sequence[Tensor]) -> None:
    """Leave tensors as they are: the `Average` of a single process."""


def are_finite(losses: Sequence[Tensor], device: torch.device, average: Average = alone) -> Tensor:
    """Return whether each loss is finite, in every process, as bools [n]."""
    flags = torch.stack([torch.isfinite(loss.detach()).to(device) for loss in losses]).float()
    average([flags])
    return flags == 1.0


def count_entries(tensors: Sequence[Tensor]) -> int:
    """Return the total number of entries of all tensors, the width of the matrix."""
    return sum(tensor.numel() for tensor in tensors)


def gradient(loss: Tensor, inputs: Sequence[Tensor], retain_graph: bool) -> tuple[Tensor | None, ...]:
    """Return d loss / d input for each input, None for inputs that the loss does not reach."""
    if not loss.requires_grad:
        return (None,) * len(inputs)
    return torch.autograd.grad(loss, inputs, retain_graph=retain_graph, allow_unused=True)


def flatten(gradients: Sequence[Tensor | None], inputs: Sequence[Tensor], out: Tensor) -> Tensor:
    """Write gradients into `out` [entries], with zeros for None, cast to its dtype and device."""
    pieces = [
        out.new_zeros(tensor.numel()) if grad is None else grad.reshape(-1).to(out)
        for grad, tensor in zip(gradients, inputs, strict=True)
    ]
    return torch.cat(pieces, out=out)


def fill_matrix(losses: Sequence[Tensor], inputs: Sequence[Tensor], matrix: Tensor, keep_graph: bool) -> list[int]:
    """Write the gradient of loss i into row i of `matrix` [n, entries]; return the owner of every input.

    The owner is the only task that reaches it, SHARED or UNREACHED. The last loss frees the graph unless `keep_graph`.
    """
    owners = [UNREACHED] * len(inputs)
    for task, loss in enumerate(losses):
        gradients = gradient(loss, inputs, retain_graph=keep_graph or task + 1 < len(losses))
        flatten(gradients, inputs, matrix[task])
        for index, grad in enumerate(gradients):
            if grad is not None:
                owners[index] = task if owners[index] == UNREACHED else SHARED
    return owners


def plain_runs(owners: Sequence[int], inputs: Sequence[Tensor]) -> list[Run]:
    """Return the column ranges of the inputs that are not SHARED; neighbours with one owner are merged."""
    runs: list[Run] = []
    start = 0
    for owner, tensor in zip(owners, inputs, strict=True):
        stop = start + tensor.numel()
        if owner != SHARED:
            if runs and runs[-1][0] == owner and runs[-1][2] == start:
                runs[-1] = (owner, runs[-1][1], stop)
            else:
                runs.append((owner, start, stop))
        start = stop
    return runs


def unflatten(vector: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return views of a vector [entries] in the shapes of the inputs; copies if dtype, device or strides differ."""
    pieces = []
    start = 0
    for tensor in inputs:
        piece = vector[start : start + tensor.numel()].view(tensor.shape)
        # optimizers leave their fast path when a gradient is not laid out like its parameter (channels_last)
        pieces.append(piece.to(tensor) if tensor.is_contiguous() else torch.empty_like(tensor).copy_(piece))
        start += tensor.numel()
    return pieces
