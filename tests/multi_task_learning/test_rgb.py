"""RGB on small networks: which parameter gets which gradient, lazy steps, representation mode, bad input, state."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multi_task_learning import METHODS, RGB, RGBAggregator
from multi_task_learning.baselines import BASELINES, make_baseline


class TwoHeads(nn.Module):
    """A shared trunk, a head per task, a layer nobody uses and a frozen one."""

    def __init__(self, num_tasks: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Linear(4, 6)
        self.unused = nn.Linear(2, 2)
        self.heads = [nn.Linear(6, 1) for _ in range(num_tasks)]
        for i, head in enumerate(self.heads):
            self.add_module(f"heads{i}", head)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)

    def features(self, x: Tensor) -> Tensor:
        return torch.tanh(self.trunk(x))

    def losses(self, features: Tensor) -> list[Tensor]:
        features = features + self.frozen(features)
        return [((head(features) - i) ** 2).mean() * 10.0**i for i, head in enumerate(self.heads)]


def batch(seed: int) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def plain_gradients(model: TwoHeads, x: Tensor, task: int | None = None) -> dict[str, Tensor]:
    """Gradients by torch's own backward: of one task's loss, or of the sum."""
    model.zero_grad()
    losses = model.losses(model.features(x))
    (sum(losses, torch.zeros(())) if task is None else losses[task]).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def trunk_matrix(model: TwoHeads, x: Tensor) -> Tensor:
    rows = [plain_gradients(model, x, task) for task in range(len(model.heads))]
    return torch.stack([torch.cat([row["trunk.weight"].flatten(), row["trunk.bias"]]) for row in rows])


def trunk_gradient(model: TwoHeads) -> Tensor:
    weight, bias = model.trunk.weight.grad, model.trunk.bias.grad
    assert weight is not None
    assert bias is not None
    return torch.cat([weight.flatten(), bias])


def make_rgb(model: nn.Module, **settings: Any) -> RGB:
    rgb = RGB(**settings)
    rgb.get_share_params = lambda: model.parameters()
    return rgb


def assert_heads_are_plain(model: TwoHeads, expected: dict[str, Tensor]) -> None:
    for name, param in model.named_parameters():
        if name.startswith("heads"):
            assert param.grad is not None
            torch.testing.assert_close(param.grad, expected[name], atol=1e-6, rtol=1e-4)


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


@pytest.mark.parametrize("every", [2, 4])
def test_lazy_steps_use_the_frozen_coefficients(every: int) -> None:
    model = TwoHeads()
    rgb, reference = make_rgb(model, every=every), RGBAggregator()
    for call in range(2 * every):
        x = batch(call)
        matrix, expected = trunk_matrix(model, x), plain_gradients(model, x)
        rgb.backward(model.losses(model.features(x)))
        if call % every == 0:
            balanced = reference.balance(matrix)
        vector = balanced.weights @ matrix + balanced.consensus_weight * reference.d
        torch.testing.assert_close(trunk_gradient(model), vector, atol=1e-4, rtol=1e-3)
        assert_heads_are_plain(model, expected)
        assert not model.unused.weight.grad.any()  # type: ignore[union-attr]


def test_lazy_keeps_exclusive_gradients_of_a_fully_rotated_task() -> None:
    """With α_i = θ_i the own coefficient is 0; what only that task reaches must still learn."""
    shared, own = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.tensor([3.0]))
    rgb = RGB(every=2, lambd=0.0, alpha_steps=200, lr_inner=1.0)
    rgb.get_share_params = lambda: [shared, own]

    def losses() -> list[Tensor]:
        return [shared[0] + own.square().sum(), shared[1] * 1.0]

    rgb.backward(losses())
    torch.testing.assert_close(rgb.last_metrics["alpha"], rgb.last_metrics["theta"])
    rgb.backward(losses())
    torch.testing.assert_close(own.grad, torch.tensor([6.0]))
    torch.testing.assert_close(shared.grad, torch.tensor([2.0**0.5, 2.0**0.5]))


def test_representation_mode_pushes_the_balanced_gradient_through() -> None:
    model = TwoHeads()
    rgb = make_rgb(model)
    rgb.rep_grad = True
    for seed in range(2):  # without memory the second batch must not know of the first
        x = batch(seed)
        expected = plain_gradients(model, x)
        features = model.features(x)
        rows = [torch.autograd.grad(loss, features, retain_graph=True)[0].flatten() for loss in model.losses(features)]
        balanced = RGBAggregator(mu=0.0)(torch.stack(rows))
        wanted = torch.autograd.grad(features, list(model.trunk.parameters()), balanced.view_as(features))

        features = model.features(x)
        rgb.rep = features
        rgb.backward(model.losses(features))
        torch.testing.assert_close(model.trunk.weight.grad, wanted[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.trunk.bias.grad, wanted[1], atol=1e-4, rtol=1e-4)
        assert_heads_are_plain(model, expected)
        assert rgb.rep is None


def test_representation_mode_with_sum_is_plain() -> None:
    model = TwoHeads()
    expected = plain_gradients(model, batch(0))
    rgb = make_rgb(model, method="sum")
    rgb.rep_grad = True
    rgb.rep = model.features(batch(0))
    rgb.backward(model.losses(rgb.rep))
    torch.testing.assert_close(model.trunk.weight.grad, expected["trunk.weight"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"method": "sum"}, {"method": "mgda"}, {"every": 2}])
@pytest.mark.parametrize("where", ["loss", "gradient", "exclusive"])
def test_a_broken_task_zeroes_the_step_and_is_counted(settings: dict[str, Any], where: str) -> None:
    model = TwoHeads()
    rgb = make_rgb(model, **settings)
    fine = make_rgb(model, **settings)
    for broken in (True, True, False):
        features = model.features(batch(1))
        losses = model.losses(features)
        if broken and where == "loss":
            losses[1] = losses[1] * torch.nan
        elif broken and where == "gradient":
            losses[1] = losses[1] + 0 * (features - features.detach()).abs().sqrt().sum()  # 0 * inf at 0: NaN
        elif broken:
            weight = model.heads[1].weight
            losses[1] = losses[1] + 0 * (weight - weight.detach()).abs().sqrt().sum()
        rgb.backward(losses)
        if broken:
            assert all(p.grad is not None and not p.grad.any() for p in model.parameters() if p.requires_grad)
            assert rgb.last_metrics["nonfinite"][1]
    assert int(rgb.skipped) == 2
    assert int(rgb.last_metrics["skipped"]) == 2
    found = trunk_gradient(model)
    assert found.any()
    if settings != {"every": 2}:  # nothing of the broken steps is left behind
        fine.backward(model.losses(model.features(batch(1))))
        torch.testing.assert_close(found, trunk_gradient(model))


def test_the_guilty_task_is_named() -> None:
    model = TwoHeads()
    rgb = make_rgb(model)
    losses = model.losses(model.features(batch(0)))
    losses[2] = losses[2] * torch.inf
    rgb.backward(losses)
    assert rgb.last_metrics["nonfinite"].tolist() == [False, False, True]


def test_metrics() -> None:
    model = TwoHeads()
    rgb = make_rgb(model)
    matrix = trunk_matrix(model, batch(0))
    rgb.backward(model.losses(model.features(batch(0))))
    torch.testing.assert_close(rgb.last_metrics["task_grad_norm"], matrix.norm(dim=1), rtol=1e-4, atol=1e-6)
    unit = nn.functional.normalize(matrix, dim=1)
    torch.testing.assert_close(rgb.last_metrics["task_cosine"], unit @ unit.T, rtol=1e-4, atol=1e-5)
    assert set(rgb.last_metrics) == {"task_grad_norm", "task_cosine", "theta", "alpha", "nonfinite", "skipped"}
    assert not any(value.requires_grad for value in rgb.last_metrics.values())


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_state_round_trip_continues_bit_for_bit(calls: int) -> None:
    model = TwoHeads()
    first = make_rgb(model, every=3)
    for call in range(calls):
        first.backward(model.losses(model.features(batch(call))))
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second = make_rgb(model, every=3)
    second.load_state_dict(torch.load(stream, weights_only=True))
    for call in range(calls, calls + 4):
        found = []
        for rgb in (first, second):
            rgb.backward(model.losses(model.features(batch(call))))
            found.append(torch.cat([trunk_gradient(model), model.heads[0].weight.grad.flatten()]))  # type: ignore[union-attr]
        assert torch.equal(*found)


def test_reset_allows_another_number_of_tasks() -> None:
    rgb = RGB()
    for num_tasks in (3, 2):
        model = TwoHeads(num_tasks)
        rgb.get_share_params = model.parameters
        rgb.reset()
        rgb.backward(model.losses(model.features(batch(0))))
        assert trunk_gradient(model).any()


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
    with pytest.raises(ValueError, match=r"^get_share_params: gave no"):
        rgb.backward([point.sum()])
    rgb.get_share_params = lambda: [point]
    with pytest.raises(ValueError, match=r"^task_losses\[0\]: came as shape \[2\]"):
        rgb.backward([point])
    with pytest.raises(ValueError, match=r"^task_losses\[1\]: came as float"):
        rgb.backward([point.sum(), 1.0])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"^task_losses: came empty"):
        rgb.backward([])
    rgb.task_num = 3
    with pytest.raises(ValueError, match="came with 1 tasks, expected task_num = 3"):
        rgb.backward([point.sum()])
    rgb.task_num, rgb.rep_grad = None, True
    with pytest.raises(ValueError, match=r"^rep: came as None"):
        rgb.backward([point.sum()])
    with pytest.raises(ValueError, match=r"^method: came as 'adam'"):
        RGB(method="adam")
    with pytest.raises(ValueError, match=r"^every: came as 0"):
        RGB(every=0)
    with pytest.raises(ValueError, match=r"^every: came as 2 with method 'mgda'"):
        RGB(method="mgda", every=2)
    with pytest.raises(ValueError, match=r"^state: came with the keys \['calls'\]"):
        RGB().load_state_dict({"calls": 1})
