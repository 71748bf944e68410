"""RGB over several calls: lazy steps, representation mode, broken tasks, metrics, state."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from multi_task_learning import RGB, RGBAggregator
from tests.multi_task_learning.two_heads import (
    TwoHeads,
    assert_heads_are_plain,
    batch,
    make_rgb,
    plain_gradients,
    trunk_gradient,
    trunk_matrix,
)


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


@pytest.mark.parametrize("settings", [{}, {"method": "sum"}, {"every": 2}])
def test_a_fused_optimizer_that_is_told_does_not_move_in_a_skipped_step(settings: dict[str, Any]) -> None:
    """A step of zeros would still follow the momentum, and shrink it."""
    models = [TwoHeads(), TwoHeads()]
    rgbs = [make_rgb(model, **settings) for model in models]
    optimizers = [torch.optim.Adam([p for p in m.parameters() if p.requires_grad], 1e-2, fused=True) for m in models]

    def step(which: int, seed: int, is_broken: bool = False) -> None:
        model, rgb, optimizer = models[which], rgbs[which], optimizers[which]
        losses = model.losses(model.features(batch(seed)))
        rgb.backward([*losses[:2], losses[2] * (torch.nan if is_broken else 1.0)])
        optimizer.found_inf = rgb.last_metrics["found_inf"]  # type: ignore[attr-defined]
        optimizer.step()

    for call in range(4):
        step(0, call)
        step(1, call)
        kept = [p.clone() for p in models[1].parameters()]
        for _ in range(2):  # an even number, so that the lazy mode keeps its turn
            step(1, 99, is_broken=True)
        for now, then in zip(models[1].parameters(), kept, strict=True):
            assert torch.equal(now, then)
    for touched, untouched in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert torch.equal(touched, untouched)


def test_the_guilty_task_is_named() -> None:
    model = TwoHeads()
    rgb = make_rgb(model)
    losses = model.losses(model.features(batch(0)))
    losses[2] = losses[2] * torch.inf
    rgb.backward(losses)
    assert rgb.last_metrics["nonfinite"].tolist() == [False, False, True]
    assert rgb.last_metrics["found_inf"] == 1.0
    rgb.backward(model.losses(model.features(batch(0))))
    assert rgb.last_metrics["nonfinite"].tolist() == [False, False, False]
    assert rgb.last_metrics["found_inf"] == 0.0


def test_metrics() -> None:
    model = TwoHeads()
    rgb = make_rgb(model)
    matrix = trunk_matrix(model, batch(0))
    rgb.backward(model.losses(model.features(batch(0))))
    torch.testing.assert_close(rgb.last_metrics["task_grad_norm"], matrix.norm(dim=1), rtol=1e-4, atol=1e-6)
    unit = nn.functional.normalize(matrix, dim=1)
    torch.testing.assert_close(rgb.last_metrics["task_cosine"], unit @ unit.T, rtol=1e-4, atol=1e-5)
    assert set(rgb.last_metrics) == {
        "task_grad_norm",
        "task_cosine",
        "theta",
        "alpha",
        "nonfinite",
        "skipped",
        "found_inf",
    }
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
