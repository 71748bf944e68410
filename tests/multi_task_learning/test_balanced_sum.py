"""BalancedSum on small networks and on losses whose gradients are given rows: weights, memory, broken tasks, state."""

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from multi_task_learning import RGB, BalancedSum
from tests.multi_task_learning.two_heads import TwoHeads, batch, plain_gradients, trunk_gradient, trunk_matrix

THIRD = 1 / 3


def on_rows(balancing: BalancedSum | RGB, matrix: Tensor) -> Tensor:
    """The gradient for losses whose gradients are the rows of matrix [n, P]."""
    point = nn.Parameter(torch.zeros(matrix.shape[1]))
    balancing.get_share_params = lambda: [point]
    balancing.backward([row @ point for row in matrix])
    assert point.grad is not None
    return point.grad


def weights_for(matrix: Tensor, **settings: Any) -> Tensor:
    balancing = BalancedSum(**settings)
    on_rows(balancing, matrix)
    return balancing.weights


def on_trunk(model: TwoHeads, **settings: Any) -> BalancedSum:
    balancing = BalancedSum(**settings)
    balancing.get_share_params, balancing.get_anchors = model.parameters, model.trunk.parameters
    return balancing


def random_rows(num_tasks: int, seed: int = 0) -> Tensor:
    rows = torch.randn(num_tasks, 7, generator=torch.Generator().manual_seed(seed))
    return rows + 0.5 * rows[0]  # not orthogonal


# ---------------------------------------------------------------- the weights


def test_one_task_keeps_its_plain_gradient() -> None:
    row = torch.tensor([[3.0, -1.0, 0.5]])
    balancing = BalancedSum()
    for _ in range(3):
        torch.testing.assert_close(on_rows(balancing, row), row[0])


def test_identical_tasks_get_equal_weights() -> None:
    rows = torch.tensor([[1.0, 2.0, -2.0]]).expand(3, 3)
    torch.testing.assert_close(weights_for(rows), torch.ones(3))


def test_orthogonal_tasks_that_hardly_rotate_keep_their_weights() -> None:
    rows = torch.diag(torch.tensor([3.0, 4.0, 0.5]))
    balancing = BalancedSum(alpha_steps=1, lr_inner=1e-3)
    on_rows(balancing, rows)
    assert (balancing.last_metrics["alpha"] > 0).all()
    torch.testing.assert_close(balancing.weights, torch.ones(3), atol=1e-2, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_the_weights_are_those_of_the_explicit_rotation(seed: int) -> None:
    """Rotate vectors instead of coefficients, then solve Σ w_i g_i = Σ t_i r_i for w."""
    rows = random_rows(3, seed)
    balancing = BalancedSum(min_weight=1e-3, max_weight=1e3)
    on_rows(balancing, rows)
    total = rows.sum(0)
    d, expected = total / total.norm(), torch.zeros(7)
    for row, alpha in zip(rows, balancing.last_metrics["alpha"], strict=True):
        theta = torch.arccos(row @ d / row.norm())
        assert 0 < alpha < theta
        expected = expected + ((theta - alpha).sin() * row + alpha.sin() * row.norm() * d) / theta.sin()
    solved = torch.linalg.lstsq(rows.T, expected[:, None]).solution[:, 0]
    torch.testing.assert_close(balancing.weights, solved / solved[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1e5])
def test_scaling_all_losses_leaves_the_weights(scale: float) -> None:
    rows = random_rows(3)
    shares = (None, None, 0.1)
    expected = weights_for(rows, shares=shares)
    torch.testing.assert_close(weights_for(scale * rows, shares=shares), expected, rtol=1e-4, atol=1e-5)


def test_a_share_aims_at_a_tenth_of_the_first_tasks_norm() -> None:
    rows = torch.diag(torch.tensor([5.0, 2.0, 0.02]))
    gradient = on_rows(BalancedSum((None, None, 0.1), alpha_steps=0), rows)
    torch.testing.assert_close(gradient, torch.tensor([5.0, 2.0, 0.5]))
    rows[2] *= 1e-2  # 2,500 times its own norm would be needed
    gradient = on_rows(BalancedSum((None, None, 0.1), alpha_steps=0), rows)
    torch.testing.assert_close(gradient, torch.tensor([5.0, 2.0, 30 * 2e-4]))
    rows[2] *= 1e5  # 20: a fortieth would be needed
    gradient = on_rows(BalancedSum((None, None, 0.1), alpha_steps=0), rows)
    torch.testing.assert_close(gradient, torch.tensor([5.0, 2.0, 20 / 3]))


def test_a_task_that_has_converged_gets_no_enormous_weight_as_rgb_gives_it() -> None:
    """With the cpu preset's settings of RGB. Rows are along the axes, so that the gradient shows the weights."""
    rows = torch.diag(torch.tensor([14.0, 3.0, 14e-4]))
    rgb = RGB(mu=0.0, scale="per_task", every=2)
    on_rows(rgb, rows)
    weights = on_rows(rgb, rows) / rows.diagonal()  # a lazy step
    assert weights[2] > 100
    for shares in ((), (None, None, 0.1)):
        balancing = BalancedSum(shares)
        for shrunk in (1e4, 1.0, 1.0, 1.0):
            factors = torch.tensor([1.0, 1.0, shrunk])
            on_rows(balancing, factors[:, None] * rows)
            assert (balancing.weights >= THIRD).all()
            assert (balancing.weights <= 30).all()
        assert weights_for(rows, shares=shares).max() <= 30


def test_a_vanished_gradient_has_no_vote() -> None:
    rows = torch.diag(torch.tensor([5.0, 1e-5]))
    balancing = BalancedSum((None, 0.1))
    on_rows(balancing, rows)
    # at most 30 times its own norm: the consensus is along the first task up to 3e-4 / 5
    torch.testing.assert_close(balancing.last_metrics["theta"], torch.tensor([0.0, math.pi / 2]), atol=1e-3, rtol=0)


def test_bounds_are_reached_and_not_passed() -> None:
    rows = torch.diag(torch.tensor([1.0, 1e-6, 1e6]))
    weights = weights_for(rows, shares=(None, 1.0, 1.0), alpha_steps=0, min_weight=0.2, max_weight=4.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 4.0, 0.2]))


@pytest.mark.parametrize("empty", [0, 1, 2])
@pytest.mark.parametrize("shares", [(), (None, None, 0.1)])
def test_a_task_without_a_gradient_breaks_nothing(empty: int, shares: tuple[float | None, ...]) -> None:
    rows = random_rows(3)
    without = rows.clone()
    without[empty] = 0.0
    balancing = BalancedSum(shares)
    assert torch.isfinite(on_rows(balancing, torch.zeros_like(rows))).all()
    torch.testing.assert_close(balancing.weights, torch.ones(3))
    for matrix in (without, rows):
        gradient = on_rows(balancing, matrix)
        assert torch.isfinite(balancing.weights).all()
        torch.testing.assert_close(gradient, balancing.weights @ matrix, rtol=1e-5, atol=1e-6)
        if matrix is without:
            assert balancing.weights[empty] == 1
    if not shares:
        others = [task for task in range(3) if task != empty]
        if empty:  # the others are weighted as if it were not there
            torch.testing.assert_close(weights_for(without)[others], weights_for(rows[others]))


def test_opposed_gradients_have_no_consensus_and_keep_their_weights() -> None:
    row, balancing = torch.tensor([1.0, 2.0]), BalancedSum()
    on_rows(balancing, torch.stack([row, -row]))
    torch.testing.assert_close(balancing.weights, torch.ones(2))
    assert not balancing.last_metrics["alpha"].any()


# ---------------------------------------------------------------- the backward pass


def test_every_parameter_gets_the_weighted_sum() -> None:
    model = TwoHeads()
    balancing = on_trunk(model, shares=(None, 0.5, 0.1))
    for seed in range(3):
        found = [plain_gradients(model, batch(seed), task) for task in range(3)]
        weights = balancing.backward(model.losses(model.features(batch(seed))))
        assert not torch.allclose(weights, torch.ones(3), atol=1e-2)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                assert parameter.grad is None
                continue
            parts = [w * one[name] for w, one in zip(weights, found, strict=True) if name in one]
            expected = sum(parts, torch.zeros_like(parameter))
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5)
        assert model.unused.weight.grad is not None


def test_weights_come_from_the_anchors_alone() -> None:
    model, found = TwoHeads(), []
    for scale in (0.0, 1000.0):
        balancing = on_trunk(model)
        losses = model.losses(model.features(batch(0)))
        losses[1] = losses[1] + scale * model.heads[1].weight.square().sum()  # reaches its own head only
        found.append(balancing.backward(losses))
    assert torch.equal(*found)


def test_weights_are_reused_between_solves() -> None:
    balancing = BalancedSum(every=3)
    seen = []
    for seed in range(4):
        rows = random_rows(3, seed)
        gradient = on_rows(balancing, rows)
        torch.testing.assert_close(gradient, balancing.weights @ rows)
        seen.append(balancing.weights)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
    assert not torch.allclose(seen[0], seen[3])


def test_norms_are_those_of_a_moving_average_that_begins_as_a_mean() -> None:
    balancing = BalancedSum(gram_decay=0.5)
    for norm, squared in ((1.0, 1.0), (3.0, 5.0), (5.0, 15.0), (1.0, 8.0)):  # mean of two, then halves
        on_rows(balancing, torch.tensor([[norm, 0.0], [0.0, 2.0]]))
        expected = torch.tensor([math.sqrt(squared), 2.0])
        torch.testing.assert_close(balancing.last_metrics["task_grad_norm"], expected)


def test_metrics_of_the_first_solve() -> None:
    model = TwoHeads()
    balancing = on_trunk(model)
    matrix = trunk_matrix(model, batch(0))
    balancing.backward(model.losses(model.features(batch(0))))
    metrics = balancing.last_metrics
    torch.testing.assert_close(metrics["task_grad_norm"], matrix.norm(dim=1), rtol=1e-4, atol=1e-6)
    unit = nn.functional.normalize(matrix, dim=1)
    torch.testing.assert_close(metrics["task_cosine"], unit @ unit.T, rtol=1e-4, atol=1e-5)
    d = matrix.sum(0) / matrix.sum(0).norm()
    torch.testing.assert_close(metrics["theta"], torch.arccos(unit @ d), rtol=1e-3, atol=1e-3)
    assert torch.equal(metrics["weight"], balancing.weights)
    assert set(metrics) == {"task_grad_norm", "task_cosine", "theta", "alpha", "weight"} | {
        "nonfinite",
        "skipped",
        "found_inf",
    }
    assert not any(value.requires_grad for value in metrics.values())


def test_gradients_share_no_memory_and_no_graph_is_kept() -> None:
    """d(a + b) is one tensor to autograd; clipping in place must not scale it twice."""
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    balancing = BalancedSum()
    balancing.get_share_params = lambda: [a, b]
    for _ in range(2):  # overwritten, not accumulated
        loss = ((a + b) * torch.tensor([1.0, 2.0, 3.0])).exp().sum()
        balancing.backward([loss])
    assert a.grad is not None
    assert b.grad is not None
    a.grad.mul_(2.0)
    torch.testing.assert_close(b.grad, torch.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_call_asks_the_device_for_one_number_only() -> None:
    """Whether all is finite, which is asked on a CPU alone: on a GPU every question would wait for the device."""
    asked = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    balancing = BalancedSum((None, None, 0.1))
    rows = random_rows(3)
    with Watch():
        on_rows(balancing, rows)
    assert asked.count("_local_scalar_dense") == 1
    assert not {"nonzero", "masked_select", "unique"} & set(asked)


# ---------------------------------------------------------------- broken tasks


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("where", ["loss", "gradient", "own head"])
def test_a_broken_task_zeroes_the_step_and_leaves_nothing_behind(every: int, where: str) -> None:
    model = TwoHeads()
    balancing, fine = on_trunk(model, every=every), on_trunk(model, every=every)
    sources = {"gradient": model.trunk.weight, "own head": model.heads[1].weight}
    for is_broken in (True, True, False):
        losses = model.losses(model.features(batch(1)))
        if is_broken and where == "loss":
            losses[1] = losses[1] * torch.nan
        elif is_broken:
            weight = sources[where]
            losses[1] = losses[1] + 0 * (weight - weight.detach()).abs().sqrt().sum()  # 0 * inf at 0: NaN
        balancing.backward(losses)
        assert balancing.last_metrics["found_inf"] == float(is_broken)
        if is_broken:
            assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)
            assert balancing.last_metrics["nonfinite"][1]
            if where == "loss":
                assert balancing.last_metrics["nonfinite"].tolist() == [False, True, False]
    assert not balancing.last_metrics["nonfinite"].any()
    assert int(balancing.skipped) == int(balancing.last_metrics["skipped"]) == 2
    if where != "own head":  # there the anchors' gradients, and so the average, are sound
        fine.backward(model.losses(model.features(batch(1))))
        assert torch.equal(balancing.gram, fine.gram)
        assert torch.equal(balancing.weights, fine.weights)


def test_a_solve_names_the_task_whose_gradient_is_broken() -> None:
    model = TwoHeads()
    losses = model.losses(model.features(batch(0)))
    losses[2] = losses[2] + 0 * (model.trunk.bias - model.trunk.bias.detach()).abs().sqrt().sum()
    balancing = on_trunk(model)
    balancing.backward(losses)
    assert balancing.last_metrics["nonfinite"].tolist() == [False, False, True]


def test_a_broken_call_changes_neither_average_nor_angles() -> None:
    balancing = BalancedSum((None, 0.1))
    on_rows(balancing, random_rows(2))
    before = {key: value.clone() for key, value in balancing.state_dict().items() if isinstance(value, Tensor)}
    on_rows(balancing, random_rows(2, 1) * torch.tensor([[1.0], [torch.inf]]))
    for key in ("gram", "seen", "alpha", "weights"):
        assert torch.equal(before[key], getattr(balancing, key)), key


# ---------------------------------------------------------------- state and bad input


@pytest.mark.parametrize("calls", [0, 1, 4])
def test_state_round_trip_continues_bit_for_bit(calls: int) -> None:
    model = TwoHeads()
    first = on_trunk(model, shares=(None, None, 0.1), every=3)
    for call in range(calls):
        first.backward(model.losses(model.features(batch(call))))
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second = on_trunk(model, shares=(None, None, 0.1), every=3)
    second.load_state_dict(torch.load(stream, weights_only=True))
    for call in range(calls, calls + 4):
        found = []
        for balancing in (first, second):
            balancing.backward(model.losses(model.features(batch(call))))
            found.append(trunk_gradient(model).clone())
        assert torch.equal(*found)
        assert all(torch.equal(first.last_metrics[key], value) for key, value in second.last_metrics.items())


def test_reset_allows_another_number_of_tasks() -> None:
    balancing = BalancedSum()
    on_rows(balancing, random_rows(3))
    with pytest.raises(ValueError, match=r"^task_losses: got 2 tasks, expected 3 as before \(or call reset\(\)\)$"):
        on_rows(balancing, random_rows(2))
    balancing.reset()
    on_rows(balancing, random_rows(2))
    assert torch.equal(balancing.weights, weights_for(random_rows(2)))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"min_weight": 40.0},
            r"min_weight, max_weight: got \(40.0, 30.0\), expected 0 < min_weight <= 1 <= max_weight",
        ),
        ({"max_weight": 0.5}, r"min_weight, max_weight: got \(0.3+, 0.5\), expected"),
        ({"min_weight": 0.0}, r"min_weight, max_weight: got \(0.0, 30.0\), expected"),
        ({"max_weight": torch.inf}, r"min_weight, max_weight: got \(0.3+, inf\), expected"),
        ({"gram_decay": 1.0}, r"gram_decay: got 1.0, expected a number in \[0, 1\)"),
        ({"shares": (None, 0.0)}, r"shares: got \[None, 0.0\], expected finite numbers > 0, or None"),
        ({"every": 0}, "every: got 0, expected a whole number of at least 1"),
        ({"lambd": -1.0}, "lambd: got -1.0, expected a finite number >= 0"),
        ({"alpha_steps": 0.5}, "alpha_steps: got 0.5, expected an integer >= 0"),
        ({"lr_inner": 0.0}, "lr_inner: got 0.0, expected a finite number > 0"),
    ],
)
def test_settings_out_of_range_are_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}"):
        BalancedSum(**settings)


def test_bad_input_is_one_line() -> None:
    point = nn.Parameter(torch.ones(2))
    balancing = BalancedSum((None, 0.1))
    with pytest.raises(ValueError, match=r"^get_share_params: got no"):
        balancing.backward([point.sum()])
    balancing.get_share_params = lambda: [point]
    with pytest.raises(ValueError, match=r"^shares: got 2, expected one for each of 1 tasks"):
        balancing.backward([point.sum()])
    with pytest.raises(ValueError, match=r"^task_losses\[0\]: got shape \[2\]"):
        balancing.backward([point])
    balancing.task_num = 3
    with pytest.raises(ValueError, match="got 1 tasks, expected task_num = 3"):
        balancing.backward([point.sum()])
    with pytest.raises(ValueError, match=r"^state: got the keys \['calls'\]"):
        balancing.load_state_dict({"calls": 1})
