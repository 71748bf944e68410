"""A small network on which tasks meet, and its gradients by torch alone."""

from typing import Any

import torch
from torch import Tensor, nn

from multi_task_learning import RGB


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
