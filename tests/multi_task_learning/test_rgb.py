"""RGB on small networks: which parameter gets which gradient, the baselines, bad input."""

import pytest
import torch
from torch import nn

from multi_task_learning import METHODS, RGB, RGBAggregator
from multi_task_learning.baselines import BASELINES, make_baseline
from tests.multi_task_learning.two_heads import (
    TwoHeads,
    assert_heads_are_plain,
    batch,
    make_rgb,
    plain_gradients,
    trunk_gradient,
    trunk_matrix,
)


def test_the_usage_of_the_seed_works() -> None:
    model, rgb = TwoHeads(), RGB()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    observations = batch(0)
    before = sum(model.losses(model.features(observations))).item()  # type: ignore[union-attr]
    for _ in range(30):
        task_losses = model.losses(model.features(observations))
        optimizer.zero_grad()
        rgb.task_num = len(task_losses)
        rgb.device = observations.device
        rgb.rep_grad = False
        rgb.get_share_params = lambda: model.parameters()
        weights = rgb.backward(task_losses)
        optimizer.step()
    torch.testing.assert_close(weights, torch.ones(3))
    assert sum(model.losses(model.features(observations))).item() < 0.5 * before  # type: ignore[union-attr]


def test_shared_is_balanced_exclusive_is_plain_unreached_is_zero() -> None:
    model = TwoHeads()
    rgb, reference = make_rgb(model), RGBAggregator()
    for seed in range(3):
        x = batch(seed)
        expected = plain_gradients(model, x)
        balanced = reference(trunk_matrix(model, x))
        rgb.backward(model.losses(model.features(x)))
        torch.testing.assert_close(trunk_gradient(model), balanced, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(trunk_gradient(model)[:24], expected["trunk.weight"].flatten(), rtol=1e-2)
        assert_heads_are_plain(model, expected)
        for param in model.unused.parameters():
            assert param.grad is not None
            assert not param.grad.any()
        assert all(param.grad is None for param in model.frozen.parameters())


def test_sum_is_torchs_own_backward() -> None:
    model = TwoHeads()
    expected = plain_gradients(model, batch(0))
    make_rgb(model, method="sum").backward(model.losses(model.features(batch(0))))
    for name, param in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(param.grad, expected[name])


@pytest.mark.filterwarnings("ignore::UserWarning")  # cvxpy in nash_mtl: no DPP, and "may be inaccurate"
@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_finite_gradients_and_plain_heads(method: str) -> None:
    if method in BASELINES:
        try:
            make_baseline(method)
        except ValueError:
            pytest.skip("its solvers are in the extra `compare`")
    model = TwoHeads()
    rgb = make_rgb(model, method=method)
    for seed in range(2):
        expected = plain_gradients(model, batch(seed))
        rgb.backward(model.losses(model.features(batch(seed))))
        assert torch.isfinite(trunk_gradient(model)).all()
        assert trunk_gradient(model).any()
        assert_heads_are_plain(model, expected)


def test_mgda_is_the_shortest_vector_of_the_hull() -> None:
    model = TwoHeads(num_tasks=2)
    a, b = trunk_matrix(model, batch(0))
    share = torch.clamp(((b - a) @ b) / (a - b).square().sum(), 0, 1)
    make_rgb(model, method="mgda").backward(model.losses(model.features(batch(0))))
    torch.testing.assert_close(trunk_gradient(model), share * a + (1 - share) * b, atol=1e-4, rtol=1e-3)


def linear_losses(matrix: torch.Tensor, method: str) -> torch.Tensor:
    """The gradient that `method` makes of losses whose gradients are the rows of matrix [n, P]."""
    point = nn.Parameter(torch.zeros(matrix.shape[1]))
    try:
        rgb = RGB(method=method)
    except ValueError:
        pytest.skip("its solvers are in the extra `compare`")
    rgb.get_share_params = lambda: [point]
    rgb.backward([row @ point for row in matrix])
    assert point.grad is not None
    return point.grad


CONFLICT = torch.tensor([[1.0, 0.5, 0.0], [-0.6, 1.0, 0.3], [0.2, -0.4, 2.0]])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cagrad_is_the_best_worst_case_near_the_mean() -> None:
    """max_d min_i g_i·d over |d - g0| <= c |g0|, c = 0.4: no direction of a fine grid of the ball does better."""
    found = linear_losses(CONFLICT, "cagrad")
    mean = CONFLICT.mean(0)
    radius = 0.4 * mean.norm()
    assert (found - mean).norm().item() == pytest.approx(radius.item(), rel=1e-2)
    offsets = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    others = mean + radius * offsets / offsets.norm(dim=1, keepdim=True)
    assert (CONFLICT @ found).min() >= (others @ CONFLICT.T).amin(1).max() - 1e-3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nash_mtl_gains_the_same_share_for_every_task() -> None:
    """d = Σ α_i g_i with g_i·d = 1/α_i; torchjd caps the length of d at 1."""
    found = linear_losses(CONFLICT, "nash_mtl")
    alpha = torch.linalg.solve(CONFLICT.T, found)
    products = alpha * (CONFLICT @ found)
    torch.testing.assert_close(products / products.mean(), torch.ones(3), rtol=0.05, atol=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_upgrad_harms_no_task() -> None:
    found = linear_losses(CONFLICT, "upgrad")
    assert (CONFLICT @ found).min() >= -1e-4
    assert found.norm() > 0.1


@pytest.mark.parametrize("scale", ["sum", "per_task", "unit"])
def test_tasks_without_a_gradient_are_as_absent(scale: str) -> None:
    """No graph at all, no path to the parameters, and a gradient of zero: all three leave the other two as they are."""
    rows = torch.tensor([[1.0, 0.2, 0.0], [-3.0, 0.5, 1.0]])
    found = []
    for with_others in (False, True):
        point, elsewhere = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(2))
        rgb = RGB(scale=scale)  # type: ignore[arg-type]
        rgb.get_share_params = lambda parameters=(point, elsewhere): parameters
        for _ in range(2):
            losses = [row @ point for row in rows]
            if with_others:
                losses = [torch.tensor(2.0), losses[0], elsewhere.square().sum(), (0 * point).sum(), losses[1]]
            rgb.backward(losses)
        found.append(point.grad)
        assert elsewhere.grad is not None
        torch.testing.assert_close(elsewhere.grad, torch.full((2,), 2.0 if with_others else 0.0))
    torch.testing.assert_close(found[0], found[1])


def test_pcgrad_for_two_tasks_by_hand() -> None:
    point = nn.Parameter(torch.zeros(2))
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    rgb = RGB(method="pcgrad")
    rgb.get_share_params = lambda: [point]
    rgb.backward([a @ point, b @ point])
    # a·b = -1: a + ½ b and b + a are added
    torch.testing.assert_close(point.grad, torch.tensor([0.5, 0.5]) + torch.tensor([0.0, 1.0]))


def test_a_missing_solver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> None:
        raise ImportError("no cvxpy")

    monkeypatch.setitem(BASELINES, "cagrad", unavailable)
    with pytest.raises(ValueError, match=r"^method: 'cagrad' needs solvers .*aime-rl\[compare\]'$"):
        RGB(method="cagrad")


def test_gradients_are_overwritten_and_laid_out_like_their_parameters() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 3, 6, 6)
    rgb = RGB()
    rgb.get_share_params = lambda: conv.parameters()
    for _ in range(2):
        y = conv(x)
        rgb.backward([y.mean(), y.square().mean(), y.mean() * 0.0])
    grad = conv.weight.grad
    assert grad is not None
    assert grad.stride() == conv.weight.stride()
    y = conv(x)
    rows = [torch.autograd.grad(loss, conv.weight, retain_graph=True)[0] for loss in (y.mean(), y.square().mean())]
    cosines = [nn.functional.cosine_similarity(grad.flatten(), row.flatten(), dim=0) for row in rows]
    assert min(cosines) > 0  # permuted entries would not point both tasks' way
    torch.testing.assert_close(cosines[0], cosines[1], atol=0.05, rtol=0)  # two tasks: the bisector


def test_no_graph_is_kept() -> None:
    model = TwoHeads()
    losses = model.losses(model.features(batch(0)))
    make_rgb(model).backward(losses)
    with pytest.raises(RuntimeError, match="second time"):
        losses[0].backward()


def test_losses_without_gradient_and_repeated_parameters() -> None:
    point = nn.Parameter(torch.ones(2))
    rgb = RGB()
    rgb.get_share_params = lambda: [point, point]
    rgb.backward([point.sum(), torch.tensor(3.0)])
    torch.testing.assert_close(point.grad, torch.ones(2))
    rgb.backward([torch.tensor(3.0), torch.tensor(1.0)])
    torch.testing.assert_close(point.grad, torch.zeros(2))


def test_bad_input_is_one_line() -> None:
    point = nn.Parameter(torch.ones(2))
    rgb = RGB()
    with pytest.raises(ValueError, match=r"^get_share_params: got no"):
        rgb.backward([point.sum()])
    rgb.get_share_params = lambda: [point]
    with pytest.raises(ValueError, match=r"^task_losses\[0\]: got shape \[2\]"):
        rgb.backward([point])
    with pytest.raises(ValueError, match=r"^task_losses\[1\]: got float"):
        rgb.backward([point.sum(), 1.0])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"^task_losses: got none"):
        rgb.backward([])
    rgb.task_num = 3
    with pytest.raises(ValueError, match="got 1 tasks, expected task_num = 3"):
        rgb.backward([point.sum()])
    rgb.task_num, rgb.rep_grad = None, True
    with pytest.raises(ValueError, match=r"^rep: got None"):
        rgb.backward([point.sum()])
    with pytest.raises(ValueError, match=r"^method: got 'adam'"):
        RGB(method="adam")
    with pytest.raises(ValueError, match=r"^every: got 0"):
        RGB(every=0)
    with pytest.raises(ValueError, match=r"^every: got 1.5"):
        RGB(every=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^every: got 2 with method 'mgda'"):
        RGB(method="mgda", every=2)
    with pytest.raises(ValueError, match=r"^state: got the keys \['calls'\]"):
        RGB().load_state_dict({"calls": 1})


def test_without_memory_the_whole_result_is_a_combination_of_the_gradients() -> None:
    matrix = torch.randn(3, 50, generator=torch.Generator().manual_seed(5)) * torch.tensor([[1.0], [10.0], [0.1]])
    for scale in ("sum", "per_task"):
        balanced = RGBAggregator(mu=0.0, scale=scale).balance(matrix)  # type: ignore[arg-type]
        assert balanced.consensus_weight == 0
        assert (balanced.alpha > 0).any()
        units = matrix / matrix.norm(dim=1, keepdim=True)
        d = units.mean(0) / units.mean(0).norm()
        expected = torch.zeros(50)
        for i in range(3):  # the explicit slerp
            theta, alpha = torch.arccos(units[i] @ d), balanced.alpha[i]
            rotated = ((theta - alpha).sin() * units[i] + alpha.sin() * d) / theta.sin()
            length = matrix.norm(dim=1).sum() / 3 if scale == "sum" else matrix[i].norm()
            expected = expected + length * rotated
        torch.testing.assert_close(balanced.vector, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(balanced.weights @ matrix, balanced.vector, rtol=1e-4, atol=1e-5)
