"""Muon for the matrices of a network, Adam for everything else, as one optimizer.

A step of Adam moves a matrix mostly along the few directions in which its gradients are large. Muon (Jordan et al.
2024, kellerjordan.github.io/posts/muon) replaces the moving average of a matrix' gradients by the nearest matrix whose
singular values are about 1, so that all directions learn at once. What that is worth here: docs/logbook.md.

`torch.optim.Muon` has the same update for single matrices of two dimensions, in bfloat16 on every device, and cannot
skip a non-finite gradient without asking the device; tests/agent/learning/test_muon.py holds ours against it.
"""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

# The quintic a x + b x^3 + c x^5, which drives singular values to about 1 in few rounds (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 3  # five are usual; three learn as well here and save a fifth of an update's time (docs/logbook.md)
MOMENTUM = 0.95
MIN_SIDE = 16  # of a matrix: of smaller ones Adam takes care, as it does of biases, embeddings and queries
ADAM_RMS = 0.2  # root mean square of a usual step of Adam over its learning rate (Liu et al. 2025, arXiv 2502.16982)

# Layers with matrices, and how many of them are stacked in a weight: one for each gate
_LAYERS: dict[type[nn.Module], int] = {
    nn.Linear: 1,
    nn.Conv2d: 1,
    nn.ConvTranspose2d: 1,
    nn.LSTMCell: 4,
    nn.GRUCell: 3,
}


def find_matrices(network: nn.Module) -> dict[nn.Parameter, int]:
    """Return the weights that map vectors to vectors, and how many matrices each one holds, one below the other.

    A convolution is the matrix from all that it sees to its channels; a recurrent cell has one matrix for each gate.
    """
    found = {}
    for layer in network.modules():
        if type(layer) not in _LAYERS:
            continue
        gates = _LAYERS[type(layer)]
        for weight in layer.parameters(recurse=False):
            if weight.requires_grad and weight.ndim >= 2 and min(len(weight) // gates, weight[0].numel()) >= MIN_SIDE:
                found[weight] = gates
    return found


def orthogonalise(matrices: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Return matrices [K, M, N] of the same singular vectors, with singular values of about 1.

    Each round is an odd polynomial of the matrix X. It is P X with a polynomial P of X X^T alone, so that all rounds
    work on the smaller side: for M << N a third of the usual time.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if is_tall else matrices
    wide = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp_min(1e-7)
    gram = wide @ wide.mT
    product = identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).expand_as(gram)
    a, b, c = COEFFICIENTS
    for round_ in range(rounds):
        factor = torch.baddbmm(b * gram + a * identity, gram, gram, alpha=c)
        product = factor if round_ == 0 else factor @ product
        if round_ + 1 < rounds:
            gram = factor @ gram @ factor
    result = product @ wide
    return result.mT if is_tall else result


class Muon(Adam):
    """Muon for the matrices of a network (second parameter group), fused Adam for the rest of it (first group).

    A step of a matrix has the root mean square of one of Adam's at the same learning rate. `found_inf` as a tensor of
    1, with which `torch.amp.GradScaler` marks a non-finite gradient, makes a step that changes nothing.

    Args:
        network: its parameters that require a gradient are trained.
        lr: learning rate of Adam.
        matrix_lr: learning rate of Muon.
    """

    found_inf: Tensor | None = None

    def __init__(self, network: nn.Module, lr: float, matrix_lr: float) -> None:
        self.matrices = find_matrices(network)
        rest = [p for p in network.parameters() if p.requires_grad and p not in self.matrices]
        groups: list[dict[str, Any]] = [{"params": rest}, {"params": list(self.matrices), "lr": matrix_lr}]
        super().__init__(groups, lr=lr, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change all parameters by their gradients."""
        matrices, lr = self.param_groups[1]["params"], self.param_groups[1]["lr"]
        gradients = [matrix.grad for matrix in matrices]
        for matrix in matrices:
            matrix.grad = None  # Adam passes over what has none
        super().step()
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient
        kept = 1.0 if self.found_inf is None else 1.0 - self.found_inf
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            if matrix.grad is not None:
                by_shape[len(matrix) // self.matrices[matrix], matrix[0].numel()].append(matrix)
        for (rows, columns), alike in by_shape.items():  # one call for all of a shape
            moved = torch.cat([self._momentum(matrix).reshape(-1, rows, columns) for matrix in alike])
            steps = orthogonalise(moved) * (kept * lr * ADAM_RMS * math.sqrt(max(rows, columns)))
            counts = [self.matrices[matrix] for matrix in alike]
            for matrix, step in zip(alike, steps.split(counts), strict=True):
                matrix.sub_(step.reshape_as(matrix))

    def _momentum(self, matrix: nn.Parameter) -> Tensor:
        """Return the moving average of a matrix' gradients one gradient ahead (Nesterov), after moving it."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state |= {"step": torch.zeros((), device=matrix.device), "momentum": torch.zeros_like(matrix)}
        average, gradient = state["momentum"], matrix.grad
        if self.found_inf is None:
            state["step"] += 1
        else:
            state["step"] += 1 - self.found_inf
            gradient = torch.where(self.found_inf.bool(), average, gradient)
        average.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(average, MOMENTUM)
