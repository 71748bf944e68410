"""Properties of RGBAggregator over a grid of matrices, and against the explicit rotations in float64."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from multi_task_learning import RGBAggregator


def random_matrix(seed: int, num_tasks: int, num_params: int, rank: int | None = None, size: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return size * torch.randn(num_tasks, num_params, generator=generator)
    left = torch.randn(num_tasks, rank, generator=generator)
    return size * (left @ torch.randn(rank, num_params, generator=generator))


MATRICES = {
    "full": random_matrix(0, 3, 10),
    "one task": random_matrix(1, 1, 5),
    "many tasks": random_matrix(2, 9, 4),
    "rank 1": random_matrix(3, 4, 6, rank=1),
    "rank 2": random_matrix(4, 4, 6, rank=2),
    "tiny": random_matrix(5, 3, 8, size=1e-9),
    "huge": random_matrix(6, 3, 8, size=1e15),
    "mixed": random_matrix(7, 3, 8) * torch.tensor([[1e-8], [1.0], [1e12]]),
    "zero": torch.zeros(3, 5),
    "one zero row": random_matrix(8, 3, 5) * torch.tensor([[1.0], [0.0], [1.0]]),
    "opposed": torch.tensor([[1.0, 2.0], [-1.0, -2.0]]),
    "orthogonal": torch.eye(3),
    "identical": torch.ones(3, 4),
}


class ExplicitRGB:
    """The same method with every rotated vector written out, in float64 numpy: an independent reference."""

    def __init__(self, mu: float, lambd: float, steps: int, rate: float) -> None:
        self.mu, self.lambd, self.steps, self.rate = mu, lambd, steps, rate
        self.d: np.ndarray | None = None
        self.alpha: np.ndarray | None = None

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        n = len(matrix)
        norms = np.linalg.norm(matrix, axis=1)
        units = matrix / norms[:, None]
        mean = units.mean(0)
        if np.linalg.norm(mean) > 1e-3:
            mean = mean / np.linalg.norm(mean)
            mean = mean if self.d is None else self.mu * self.d + (1 - self.mu) * mean
            self.d = mean / np.linalg.norm(mean)
        if self.d is None:
            return matrix.sum(0)
        alpha = np.zeros(n) if self.alpha is None else self.alpha
        theta = np.arccos(np.clip(units @ self.d, -1, 1))
        alpha = np.clip(alpha, 0, theta)
        for _ in range(self.steps):
            rotated = np.stack([self.rotate(units[i], theta[i], alpha[i]) for i in range(n)])
            slopes = np.stack([self.rotate(units[i], theta[i], alpha[i], slope=True) for i in range(n)])
            step = np.zeros(n)
            for i in range(n):
                others = sum(slopes[i] @ rotated[j] for j in range(n) if j != i)
                step[i] = -others / (n * (n - 1)) + self.lambd / (2 * n) * np.sin(alpha[i])
            alpha = np.clip(alpha - self.rate * step, 0, theta)
        self.alpha = alpha
        rotated = np.stack([self.rotate(units[i], theta[i], alpha[i]) for i in range(n)])
        return norms.sum() / n * rotated.sum(0)

    def rotate(self, unit: np.ndarray, theta: float, alpha: float, slope: bool = False) -> np.ndarray:
        assert self.d is not None
        across = self.d - (self.d @ unit) * unit  # Gram-Schmidt: the plane's second axis
        across = across / np.linalg.norm(across)
        if slope:
            return -np.sin(alpha) * unit + np.cos(alpha) * across
        return np.cos(alpha) * unit + np.sin(alpha) * across


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_tasks", [2, 3, 5])
@pytest.mark.parametrize("settings", [(0.9, 1.0, 3, 0.2), (0.5, 0.1, 10, 0.5), (0.0, 2.0, 1, 0.1)])
def test_gram_form_equals_explicit_form_over_several_calls(seed: int, num_tasks: int, settings: Any) -> None:
    mu, lambd, steps, rate = settings
    aggregator = RGBAggregator(mu=mu, lambd=lambd, alpha_steps=steps, lr_inner=rate)
    explicit = ExplicitRGB(mu, lambd, steps, rate)
    for call in range(5):
        matrix = random_matrix(100 * seed + call, num_tasks, 30)
        expected = explicit(matrix.double().numpy())
        # float32: arccos near its ends loses half of the digits, hence 1e-4 of the length
        np.testing.assert_allclose(aggregator(matrix).numpy(), expected, atol=1e-4 * float(np.linalg.norm(expected)))
    assert explicit.alpha is not None
    assert explicit.alpha.max() > 1e-3  # something was rotated at all


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("scale", ["sum", "unit", "per_task"])
def test_finite_and_bounded_everywhere(name: str, scale: Any) -> None:
    matrix = MATRICES[name]
    aggregator = RGBAggregator(scale=scale)
    length = 1.0 if scale == "unit" else torch.linalg.vector_norm(matrix, dim=1).sum().item()
    for call in range(4):
        balanced = aggregator.balance(matrix * (1 if call % 2 else -1))  # the flip sends angles towards pi
        assert torch.isfinite(balanced.vector).all()
        if aggregator.d.any():
            assert torch.linalg.vector_norm(balanced.vector) <= length * (1 + 1e-4)
        assert ((balanced.alpha >= 0) & (balanced.alpha <= balanced.theta)).all()
        assert (balanced.theta <= torch.pi + 1e-6).all()


def explicit_objective(matrix: Tensor, consensus: Tensor, alpha: Tensor, lambd: float) -> float:
    """Φ from the rotated vectors themselves, in float64; tasks without a gradient take no part."""
    explicit = ExplicitRGB(0.0, lambd, 0, 0.0)
    explicit.d = consensus.double().numpy()
    norms = matrix.double().norm(dim=1).numpy()
    units = [row / norm for row, norm in zip(matrix.double().numpy(), norms, strict=True) if norm >= 1e-10]
    rotated, turned = [], [a for a, norm in zip(alpha.double().numpy(), norms, strict=True) if norm >= 1e-10]
    for unit, angle in zip(units, turned, strict=True):
        theta = np.arccos(np.clip(unit @ explicit.d, -1, 1))
        is_fixed = theta < 1e-3 or np.pi - theta < 1e-3
        rotated.append(unit if is_fixed else explicit.rotate(unit, theta, min(max(angle, 0.0), theta)))
    n = len(units)
    pairs = sum(1 - rotated[i] @ rotated[j] for i in range(n) for j in range(i + 1, n)) / max(1, n * (n - 1))
    price = lambd / (4 * max(1, n)) * sum(np.sum((r - u) ** 2) for r, u in zip(rotated, units, strict=True))
    return float(pairs + price)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("lambd", [0.0, 1.0, 5.0])
def test_the_objective_never_rises_from_where_the_last_call_left_it(name: str, lambd: float) -> None:
    aggregator, noise = RGBAggregator(lambd=lambd), torch.Generator().manual_seed(0)
    for call in range(6):
        matrix = MATRICES[name] * (1 if call % 2 else -1)
        matrix = matrix * (1 + 0.3 * torch.randn(matrix.shape, generator=noise))
        start = aggregator.alpha.clone() if call else torch.zeros(len(matrix))
        alpha = aggregator.balance(matrix).alpha
        if aggregator.d.any():
            before, after = (explicit_objective(matrix, aggregator.d, x, lambd) for x in (start, alpha))
            assert after <= before + 1e-6  # float32 angles


def test_one_task_is_the_identity() -> None:
    aggregator = RGBAggregator()
    for seed in range(4):
        matrix = random_matrix(seed, 1, 6)
        torch.testing.assert_close(aggregator(matrix), matrix[0])


def test_identical_tasks_give_their_sum_whatever_the_memory() -> None:
    aggregator = RGBAggregator()
    for seed in range(4):
        row = random_matrix(seed, 1, 6)
        torch.testing.assert_close(aggregator(row.expand(3, -1)), 3 * row[0], atol=1e-4, rtol=1e-4)


def test_scaling_one_task_keeps_the_direction() -> None:
    matrix = random_matrix(0, 3, 20)
    scaled = matrix * torch.tensor([[1.0], [1000.0], [1.0]])
    first, second = RGBAggregator(), RGBAggregator()
    for _ in range(3):
        a, b = first(matrix), second(scaled)
        torch.testing.assert_close(a / a.norm(), b / b.norm(), atol=1e-5, rtol=1e-4)
    assert b.norm() > 100 * a.norm()


def test_order_of_tasks_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    first, second = RGBAggregator(), RGBAggregator()
    for seed in range(3):
        matrix = random_matrix(seed, 4, 12)
        torch.testing.assert_close(first(matrix), second(matrix[order]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.alpha[order], second.alpha, atol=1e-5, rtol=1e-4)


def test_two_tasks_without_memory_are_normalise_and_sum() -> None:
    matrix = random_matrix(11, 2, 8)
    result = RGBAggregator()(matrix)
    direction = torch.nn.functional.normalize(matrix, dim=1).sum(0)
    cosine = torch.nn.functional.cosine_similarity(result, direction, dim=0)
    assert cosine.item() == pytest.approx(1.0, abs=1e-6)


def test_rotation_reduces_conflict() -> None:
    matrix = torch.tensor([[1.0, 0.3, 0.0], [-3.0, 0.3, 0.1], [0.0, 0.3, 1.0]])
    aggregator = RGBAggregator(alpha_steps=50, lambd=0.0)
    result = aggregator(matrix)
    before = (matrix @ matrix.sum(0)).min()
    assert before < 0  # the plain sum harms a task
    assert (matrix @ result).min() > 0


def test_opposed_tasks_without_and_with_a_consensus() -> None:
    opposed = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    aggregator = RGBAggregator()
    torch.testing.assert_close(aggregator(opposed), torch.zeros(2))  # no direction known: the plain sum
    assert not aggregator.d.any()
    aggregator(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    result = aggregator(opposed)
    assert result[0] > 0.05  # off the saddle, towards the consensus
    assert abs(result[1].item()) < 1e-6


def test_a_task_without_gradient_is_dropped() -> None:
    matrix = random_matrix(5, 3, 6)
    matrix[1] = 0
    torch.testing.assert_close(RGBAggregator()(matrix), RGBAggregator()(matrix[[0, 2]]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_non_finite_gradients_give_zeros_and_leave_the_state(bad: float) -> None:
    aggregator = RGBAggregator()
    aggregator(random_matrix(0, 3, 6))
    before = {name: value.clone() for name, value in aggregator.state_dict().items()}
    broken = random_matrix(1, 3, 6)
    broken[2, 3] = bad
    torch.testing.assert_close(aggregator(broken), torch.zeros(6))
    for name, value in aggregator.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_state_dict_round_trip_into_a_fresh_instance(calls: int) -> None:
    aggregator = RGBAggregator()
    for seed in range(calls):
        aggregator(random_matrix(seed, 3, 9))
    stream = io.BytesIO()
    torch.save(aggregator.state_dict(), stream)
    stream.seek(0)
    other = RGBAggregator()
    if calls == 0:
        other(random_matrix(77, 3, 4))  # an unset state must also replace a set one
    other.load_state_dict(torch.load(stream, weights_only=True))
    for seed in range(10, 13):
        matrix = random_matrix(seed, 3, 9)
        assert torch.equal(aggregator(matrix), other(matrix))
    assert int(other.step) == calls + 3


def test_reset_forgets_and_a_changed_shape_is_refused() -> None:
    aggregator = RGBAggregator()
    aggregator(random_matrix(0, 3, 6))
    with pytest.raises(ValueError, match=r"matrix: got shape \[2, 6\], expected \[3, 6\]"):
        aggregator(random_matrix(0, 2, 6))
    for shape in ((6,), (0, 6), (1, 3, 6)):
        with pytest.raises(ValueError, match=r"^matrix: got shape .*, expected \[tasks, params\]$"):
            aggregator.balance(torch.zeros(shape))
    aggregator.reset()
    matrix = random_matrix(1, 2, 4)
    assert torch.equal(aggregator(matrix), RGBAggregator()(matrix))


def test_autocast_does_not_reach_the_products() -> None:
    matrix = random_matrix(0, 3, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = RGBAggregator()(matrix)
    assert torch.equal(inside, RGBAggregator()(matrix))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mu", 1.5),
        ("mu", -0.1),
        ("lambd", -1.0),
        ("alpha_steps", -1),
        ("alpha_steps", 2.5),
        ("lr_inner", 0.0),
        ("scale", "mean"),
    ],
)
def test_bad_settings_are_named_in_one_line(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: got .*expected .*$"):
        RGBAggregator(**{name: value})
