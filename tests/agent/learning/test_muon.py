"""Muon: its steps beside torch's, what they do to singular values, what it takes for a matrix, and skipped steps."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from agent.learning.muon import ROUNDS, Muon, find_matrices, orthogonalise


def gradients(network: nn.Module, seed: int) -> None:
    """Fill in gradients of noise."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("sizes", [(50, 30), (20, 64)])
def test_torch_makes_the_same_steps(sizes: tuple[int, int]) -> None:
    ours = nn.Linear(*sizes)
    theirs = nn.Linear(*sizes)
    theirs.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    muon = Muon(ours, lr=1e-3, matrix_lr=1e-2)
    published = torch.optim.Muon(
        [theirs.weight], lr=1e-2, weight_decay=0.0, ns_steps=ROUNDS, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.Adam([theirs.bias], lr=1e-3)
    for seed in range(4):
        for network, optimizers in ((ours, [muon]), (theirs, [published, adam])):
            gradients(network, seed)
            for optimizer in optimizers:
                optimizer.step()  # type: ignore[attr-defined]
    moved = (ours.weight - before).norm()
    assert (ours.weight - theirs.weight).norm() < 0.02 * moved  # theirs rounds to bfloat16, 8 bits
    torch.testing.assert_close(ours.bias, theirs.bias)


@pytest.mark.parametrize("shape", [(3, 40, 100), (1, 100, 40), (2, 48, 64)])
def test_singular_values_become_alike(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalise(matrices, rounds=5)
    before, after = (torch.linalg.svd(x, full_matrices=False) for x in (matrices, found))
    assert after.S.min() > 0.6  # published: [0.7, 1.2]
    assert after.S.max() < 1.25
    change = found - before.U @ before.Vh  # the nearest orthogonal matrix
    assert change.norm() < 0.35 * before.U.norm()


def test_a_step_is_as_large_as_one_of_adam() -> None:
    network = nn.Linear(256, 128)
    before = network.weight.detach().clone()
    gradients(network, 0)
    Muon(network, lr=1e-3, matrix_lr=1e-2).step()
    assert (network.weight - before).square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.2)


def test_gates_are_matrices_of_their_own() -> None:
    cell = nn.LSTMCell(24, 32)
    before = cell.weight_hh.detach().clone()
    gradients(cell, 0)
    assert cell.weight_hh.grad is not None
    cell.weight_hh.grad[:32] *= 1000  # a loud gate does not silence the others
    Muon(cell, lr=1e-3, matrix_lr=1e-2).step()
    quiet, *others = (cell.weight_hh - before).chunk(4)
    for gate in others:
        assert gate.norm().item() == pytest.approx(quiet.norm().item(), rel=0.1)


def test_what_is_a_matrix() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 32, 4), nn.LayerNorm(32), nn.Linear(64, 32), nn.Linear(32, 1), nn.Embedding(40, 40)
    )
    assert list(find_matrices(network)) == [network[0].weight, network[2].weight]
    network[2].requires_grad_(False)
    assert list(find_matrices(network)) == [network[0].weight]


def weights(network: nn.Module) -> Sequence[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_a_non_finite_step_changes_nothing_and_saving_restores_all() -> None:
    network = nn.Linear(32, 32)
    muon = Muon(network, lr=1e-3, matrix_lr=1e-2)
    muon.found_inf = torch.zeros(())
    gradients(network, 0)
    muon.step()
    before = weights(network)
    saved = copy.deepcopy(muon.state_dict())
    assert network.weight.grad is not None
    network.weight.grad[0, 0] = torch.nan
    muon.found_inf = torch.ones(())
    muon.step()
    for now, then in zip(weights(network), before, strict=True):
        assert torch.equal(now, then)
    gradients(network, 1)
    muon.found_inf = torch.zeros(())
    muon.step()
    expected = weights(network)

    with torch.no_grad():
        for parameter, value in zip(network.parameters(), before, strict=True):
            parameter.copy_(value)
    again = Muon(network, lr=1e-3, matrix_lr=1e-2)
    again.load_state_dict(saved)
    gradients(network, 1)
    again.step()
    for now, then in zip(weights(network), expected, strict=True):
        assert torch.equal(now, then)
