"""BalancedSum: one backward pass of a weighted sum of task losses; its weights follow the tasks' averaged gradients."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from multi_task_learning import rotation
from multi_task_learning.task_gradients import (
    Average,
    alone,
    are_finite,
    checked_losses,
    count_entries,
    fill_matrix,
    trainable,
)


class BalancedSum:
    """The gradient of Σ w_i L_i for n task losses, written to `.grad` of all parameters.

    At every m-th call (`every`) one more backward pass per task, over the anchors alone (parameters that all tasks
    share), gives the Gram matrix of the tasks' gradients g_i. Norms n_i and unit gradients ḡ_i are those of its moving
    average, rows r_i and angles those of `rotation`:

        t_i = n_i, or share_i n_0 kept within [min_weight n_i, max_weight n_i]       the aimed norms
        d = Σ t_i ḡ_i / ‖Σ t_i ḡ_i‖                                                  the consensus
        Σ w_i g_i = Σ t_i r_i                                                        defines w_i
        w_i / w_0 kept within [min_weight, max_weight]                               the weights used

    A task whose gradient has vanished has no vote in d, and its weight stays bounded. One without any has weight 1.

    `.grad` is overwritten. If any loss or gradient is not finite, the call leaves zeros and `last_metrics` like those
    of `RGB` (`nonfinite`, `skipped`, `found_inf`), and its Gram matrix does not enter the average.

    Assignable: `get_share_params`, all parameters; `get_anchors`, by default the same; `task_num` (checked if set);
    `average`, which is given all gradients before they are used, where several processes share a batch.

    Args:
        shares: per task, the norm that its gradient is aimed at, as a share of the first task's; None: its own norm.
        gram_decay: decay of the moving average, which is a plain mean at first.
    """

    def __init__(
        self,
        shares: Sequence[float | None] = (),
        gram_decay: float = 0.95,
        min_weight: float = 1 / 3,
        max_weight: float = 30.0,
        lambd: float = 1.0,
        alpha_steps: int = 3,
        lr_inner: float = 0.2,
        every: int = 1,
    ) -> None:
        if not all(share is None or 0.0 < share < float("inf") for share in shares):
            raise ValueError(f"shares: got {list(shares)}, expected finite numbers > 0, or None")
        if not 0.0 <= gram_decay < 1.0:
            raise ValueError(f"gram_decay: got {gram_decay}, expected a number in [0, 1)")
        if not 0.0 < min_weight <= 1.0 <= max_weight < float("inf"):
            bounds = (min_weight, max_weight)
            raise ValueError(f"min_weight, max_weight: got {bounds}, expected 0 < min_weight <= 1 <= max_weight")
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every: got {every}, expected a whole number of at least 1")
        rotation.check_solver(lambd, alpha_steps, lr_inner)
        self.shares, self.gram_decay, self.min_weight, self.max_weight = shares, gram_decay, min_weight, max_weight
        self.lambd, self.alpha_steps, self.lr_inner, self.every = lambd, alpha_steps, lr_inner, every
        self.task_num: int | None = None
        self.get_share_params: Callable[[], Iterable[Tensor]] | None = None
        self.get_anchors: Callable[[], Iterable[Tensor]] | None = None
        self.average: Average = alone
        self.skipped = torch.zeros((), dtype=torch.int64)
        self.last_metrics: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all state from earlier gradients; needed when tasks or parameters change."""
        self.gram = torch.zeros(0, 0)  # [n, n], the moving average
        self.seen = torch.zeros((), dtype=torch.int64)  # Gram matrices in it
        self.alpha = torch.zeros(0)  # [n], radians rotated towards d
        self.weights = torch.ones(0)  # [n]
        self._calls = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all state that later gradients and metrics depend on, readable by torch.load(weights_only=True)."""
        return {
            "gram": self.gram,
            "seen": self.seen,
            "alpha": self.alpha,
            "weights": self.weights,
            "calls": self._calls,
            "skipped": self.skipped,
            "metrics": dict(self.last_metrics),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()` of another instance. ValueError if keys are missing or unknown."""
        expected = set(self.state_dict())
        if set(state) != expected:
            raise ValueError(f"state: got the keys {sorted(state)}, expected {sorted(expected)}")
        self.gram, self.seen, self.alpha, self.weights = (state[key] for key in ("gram", "seen", "alpha", "weights"))
        self._calls, self.skipped, self.last_metrics = int(state["calls"]), state["skipped"], dict(state["metrics"])

    def backward(self, task_losses: Sequence[Tensor]) -> Tensor:
        """Write `.grad` of all parameters for one scalar loss per task; return the task weights [n].

        Raises ValueError for losses that are not scalar tensors, a wrong task_num, missing get_share_params, or another
        number of tasks than before.
        """
        losses = checked_losses(task_losses, self.task_num)
        params = trainable(self.get_share_params()) if self.get_share_params is not None else []
        if not params:
            raise ValueError("get_share_params: got no trainable parameter, expected e.g. lambda: model.parameters()")
        self._fit_state(len(losses), params[0].device)
        finite = are_finite(losses, params[0].device, self.average)
        if self._calls % self.every == 0:
            anchors = trainable(self.get_anchors()) if self.get_anchors is not None else params
            finite = self._solve(losses, anchors, finite)
        self._calls += 1
        gradients = _backward((torch.stack(losses) * self.weights.to(losses[0])).sum(), params)
        self.average(gradients)
        is_good = torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()
        # a non-finite gradient of finite losses cannot be attributed to one task here, so all are marked
        finite = finite & (is_good | ~finite.all())
        is_good = finite.all()
        if is_good.device.type != "cpu" or not is_good:  # on a CPU, asking is cheaper than a pass over all gradients
            for gradient in gradients:
                gradient.masked_fill_(~is_good, 0.0)
        self.skipped = self.skipped + ~is_good
        found_inf = (~is_good).to(torch.float32)
        self.last_metrics |= {"nonfinite": ~finite, "skipped": self.skipped, "found_inf": found_inf}
        return self.weights

    def _fit_state(self, num_tasks: int, device: torch.device) -> None:
        if len(self.shares) not in (0, num_tasks):
            raise ValueError(f"shares: got {len(self.shares)}, expected one for each of {num_tasks} tasks")
        if len(self.weights) == 0:
            self.gram = torch.zeros(num_tasks, num_tasks)
            self.alpha, self.weights = torch.zeros(num_tasks), torch.ones(num_tasks)
        if len(self.weights) != num_tasks:
            raise ValueError(
                f"task_losses: got {num_tasks} tasks, expected {len(self.weights)} as before (or call reset())"
            )
        for name in ("gram", "seen", "alpha", "weights", "skipped"):
            setattr(self, name, getattr(self, name).to(device))

    @torch.no_grad()
    def _solve(self, losses: list[Tensor], anchors: list[Tensor], finite: Tensor) -> Tensor:
        """Update average, angles and weights unless something is not finite; return which tasks are finite [n]."""
        matrix = torch.empty(len(losses), count_entries(anchors), device=finite.device)
        fill_matrix(losses, anchors, matrix, keep_graph=True)
        self.average([matrix])
        with torch.autocast(matrix.device.type, enabled=False):
            products = matrix @ matrix.T
            finite = finite & torch.isfinite(products.diagonal())
            is_good = finite.all() & torch.isfinite(products).all()
            self.seen = self.seen + is_good
            rate = (1.0 / self.seen.clamp_min(1)).clamp_min(1.0 - self.gram_decay)
            self.gram = torch.where(is_good, self.gram.lerp(products, rate), self.gram)
            alpha, weights = self._weigh()
        self.alpha = torch.where(is_good, alpha, self.alpha)
        self.weights = torch.where(is_good, weights, self.weights)
        self.last_metrics |= {"alpha": self.alpha, "weight": self.weights}
        return finite

    def _weigh(self) -> tuple[Tensor, Tensor]:
        """Return angles [n] and weights [n] for the averaged Gram matrix."""
        norms = self.gram.diagonal().clamp_min(0.0).sqrt()
        inverse = rotation.inverse_norms(norms)
        active = inverse > 0
        factors = torch.ones_like(norms)  # t_i / n_i
        for task, share in enumerate(self.shares):
            if share is not None:
                factors[task] = (share * norms[0] * inverse[task]).clamp(self.min_weight, self.max_weight)
        aimed = factors * norms
        votes = aimed / aimed.sum().clamp_min(rotation.MIN_NORM)  # d = Σ votes_i ḡ_i / length
        cosines = rotation.cosines(self.gram, inverse)
        length = (votes @ cosines @ votes).clamp_min(0.0).sqrt()
        has_consensus = length > rotation.MIN_AGREEMENT
        length = length.clamp_min(rotation.MIN_AGREEMENT)
        units = rotation.add_consensus(cosines, cosines @ votes / length, has_consensus)
        theta, rotates = rotation.angles(units), active & has_consensus
        alpha = rotation.solve_angles(self.alpha, theta, units, rotates, self.alpha_steps, self.lr_inner, self.lambd)
        rows = rotation.coefficients(alpha, theta)
        weights = factors * (rows.diagonal() + (votes * rows[:, -1]).sum() / length)
        weights = torch.where(active, weights / weights[0], torch.ones_like(weights))
        self.last_metrics |= {"task_grad_norm": norms, "task_cosine": cosines, "theta": theta}
        return alpha, weights.clamp(self.min_weight, self.max_weight)


def _backward(total: Tensor, params: list[Tensor]) -> list[Tensor]:
    """Write d total / d param to every `.grad`, zeros where nothing reaches, and return them."""
    for param in params:
        param.grad = None  # autograd then hands its own buffers over, without a copy
    if total.requires_grad:
        torch.autograd.backward(total, inputs=params)
    for param in params:
        if param.grad is None:
            param.grad = torch.zeros_like(param)
    return [param.grad for param in params if param.grad is not None]
