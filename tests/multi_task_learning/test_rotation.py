"""The pure functions of rotation.py against explicit vectors in float64 and central differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from multi_task_learning import rotation


def geometry(seed: int, num_tasks: int = 3, num_params: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(unit gradients [n, P], d [P], gram [n+1, n+1], theta [n]) in float64, so that differences can be taken."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_tasks, num_params, generator=generator, dtype=torch.float64)
    inverse = rotation.inverse_norms(torch.linalg.vector_norm(rows, dim=1))
    consensus = torch.nn.functional.normalize(torch.randn(num_params, generator=generator, dtype=torch.float64), dim=0)
    gram = rotation.unit_gram(rows, inverse, consensus)
    return rows * inverse[:, None], consensus, gram, rotation.angles(gram)


@pytest.mark.parametrize("seed", range(5))
def test_gram_and_angles_are_those_of_the_unit_vectors(seed: int) -> None:
    units, consensus, gram, theta = geometry(seed)
    basis = torch.cat([units, consensus[None]])
    torch.testing.assert_close(gram, basis @ basis.T)
    torch.testing.assert_close(theta.cos(), units @ consensus)
    assert ((theta >= 0) & (theta <= math.pi)).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_rotation_is_a_slerp(seed: int, fraction: float) -> None:
    units, consensus, _, theta = geometry(seed)
    alpha = fraction * theta
    rotated = rotation.coefficients(alpha, theta) @ torch.cat([units, consensus[None]])
    torch.testing.assert_close(torch.linalg.vector_norm(rotated, dim=1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close((rotated * units).sum(1), alpha.cos())  # turned by alpha from where it was
    torch.testing.assert_close(rotated @ consensus, (theta - alpha).cos())  # and theta - alpha is left


@pytest.mark.parametrize("theta", [0.0, 5e-4, math.pi - 5e-4, math.pi])
def test_no_rotation_where_the_plane_is_undefined(theta: float) -> None:
    angles = torch.tensor([theta, 1.0])
    rows = rotation.coefficients(torch.tensor([0.2, 0.2]), angles)
    torch.testing.assert_close(rows[0], torch.tensor([1.0, 0.0, 0.0]))
    assert rows[1, 2] > 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("lambd", [0.0, 1.0, 3.0])
def test_objective_is_its_definition_and_the_gradient_its_slope(seed: int, lambd: float) -> None:
    units, consensus, gram, theta = geometry(seed)
    active = torch.ones(3, dtype=torch.bool)
    alpha = theta * torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)

    g, d, a, t = units.numpy(), consensus.numpy(), alpha.numpy(), theta.numpy()
    r = (np.sin(t - a)[:, None] * g + np.sin(a)[:, None] * d) / np.sin(t)[:, None]
    disagreement = sum(1 - r[i] @ r[j] for i in range(3) for j in range(i + 1, 3)) / 6
    price = lambd / (4 * 3) * sum(np.sum((r[i] - g[i]) ** 2) for i in range(3))
    value = rotation.objective(alpha, theta, gram, active, lambd)
    assert value.item() == pytest.approx(disagreement + price, abs=1e-12)

    slope = rotation.objective_gradient(alpha, theta, gram, active, lambd)
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = 1e-5
        above = rotation.objective(alpha + step, theta, gram, active, lambd)
        below = rotation.objective(alpha - step, theta, gram, active, lambd)
        assert slope[i].item() == pytest.approx(((above - below) / 2e-5).item(), abs=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_the_objective_never_rises_and_angles_stay_inside(seed: int) -> None:
    _, _, gram, theta = geometry(seed, num_tasks=2 + seed % 4)
    active = torch.ones(len(theta), dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    start = 4 * torch.rand(len(theta), generator=generator, dtype=torch.float64) - 1  # also outside [0, theta]
    values = [rotation.objective(start.clamp_min(0).minimum(theta), theta, gram, active, 1.0).item()]
    for steps in range(6):
        alpha = rotation.solve_angles(start, theta, gram, active, steps, 0.2, 1.0)
        assert ((alpha >= 0) & (alpha <= theta)).all()
        values.append(rotation.objective(alpha, theta, gram, active, 1.0).item())
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))


def test_opposed_gradients_leave_the_saddle() -> None:
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    gram = rotation.unit_gram(rows, torch.ones(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64))
    theta, active = rotation.angles(gram), torch.ones(2, dtype=torch.bool)
    still = torch.zeros(2, dtype=torch.float64)
    assert rotation.objective_gradient(still, theta, gram, active, 1.0).abs().max() < 1e-12
    alpha = rotation.solve_angles(still, theta, gram, active, 3, 0.2, 1.0)
    assert (alpha > 0.05).all()
    torch.testing.assert_close(alpha[0], alpha[1])


def test_inactive_tasks_take_no_part() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    rows[1] = 0
    pair = rows[[0, 2]]
    consensus = torch.nn.functional.normalize(torch.randn(5, generator=generator, dtype=torch.float64), dim=0)
    results = []
    for matrix in (rows, pair):
        inverse = rotation.inverse_norms(torch.linalg.vector_norm(matrix, dim=1))
        gram = rotation.unit_gram(matrix, inverse, consensus)
        start = torch.zeros(len(matrix), dtype=torch.float64)
        results.append(rotation.solve_angles(start, rotation.angles(gram), gram, inverse > 0, 3, 0.2, 1.0))
    torch.testing.assert_close(results[0][[0, 2]], results[1])
    assert results[0][1] == 0


def test_consensus_by_hand() -> None:
    rows = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    inverse = torch.tensor([0.5, 0.2])
    diagonal = torch.tensor([0.5**0.5, 0.5**0.5])
    torch.testing.assert_close(rotation.update_consensus(rows, inverse, torch.zeros(2), 0.9), diagonal)
    blend = 0.9 * torch.tensor([1.0, 0.0]) + 0.1 * diagonal
    updated = rotation.update_consensus(rows, inverse, torch.tensor([1.0, 0.0]), 0.9)
    torch.testing.assert_close(updated, blend / blend.norm())
    opposed = torch.tensor([[2.0, 0.0], [-5.0, 0.0]])
    kept = rotation.update_consensus(opposed, inverse, torch.tensor([0.6, 0.8]), 0.9)
    torch.testing.assert_close(kept, torch.tensor([0.6, 0.8]))
    assert not rotation.is_direction(rotation.update_consensus(opposed, inverse, torch.zeros(2), 0.9))
