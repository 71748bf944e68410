"""RGB: the backward pass of several task losses, with balanced gradients on shared parameters."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from multi_task_learning import rotation
from multi_task_learning.baselines import BASELINES, combine, make_baseline
from multi_task_learning.lazy import Frozen, complete, freeze
from multi_task_learning.rgb_aggregator import RGBAggregator, Scale
from multi_task_learning.task_gradients import (
    Average,
    alone,
    are_finite,
    checked_losses,
    count_entries,
    fill_matrix,
    flatten,
    gradient,
    plain_runs,
    trainable,
    unflatten,
)

METHODS = ("rgb", "sum", *BASELINES)


class RGB:
    """The gradients of n task losses, balanced on shared parameters and written to `.grad`.

    Parameters of `get_share_params()` that two or more tasks reach get the balanced gradient of `method`; the others
    keep the plain sum, which is zero if no task reaches them. `.grad` is overwritten, not accumulated. If any task's
    loss or gradient is not finite, all gradients become zero, `skipped` is incremented, `last_metrics["nonfinite"]`
    marks the tasks (named by `task_names`), and `last_metrics["found_inf"]` is 1.0 instead of 0.0: a fused optimizer
    with this as its attribute `found_inf` leaves weights and momentum unchanged, without synchronising with the device.

    every=m solves only each m-th call; in between, one backward pass of Σ C_i L_i reuses the last coefficients.
    rep_grad=True balances at the tensors assigned to `rep` (before each backward) instead of at the parameters, without
    memory between calls: parameters that feed them get the balanced gradient, all others the plain sum.

    Assignable, as in LibMTL: `task_num` (checked if set), `device` (of the gradient matrix; by default that of the
    parameters), `rep_grad`, `rep`, `get_share_params`. Where several processes share a batch, `average` is given all
    gradients before they are balanced, so that all processes balance alike; not with `rep_grad`.

    Example::

        rgb = RGB()
        rgb.get_share_params = lambda: model.parameters()
        rgb.backward([loss_a, loss_b])
    """

    def __init__(
        self,
        method: str = "rgb",
        mu: float = 0.9,
        lambd: float = 1.0,
        alpha_steps: int = 3,
        lr_inner: float = 0.2,
        scale: Scale = "sum",
        every: int = 1,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
        if not isinstance(every, int) or every < 1 or (every > 1 and method != "rgb"):
            raise ValueError(f"every: got {every} with method {method!r}, expected 1, or more with method 'rgb'")
        self.method, self.every = method, every
        self.task_num: int | None = None
        self.device: torch.device | str | None = None
        self.rep_grad = False
        self.rep: Tensor | Sequence[Tensor] | None = None
        self.get_share_params: Callable[[], Iterable[Tensor]] | None = None
        self.average: Average = alone
        self.skipped = torch.zeros((), dtype=torch.int64)
        self.last_metrics: dict[str, Tensor] = {}
        self.aggregator = RGBAggregator(mu, lambd, alpha_steps, lr_inner, scale)
        self._baseline = make_baseline(method) if method in BASELINES else None
        self._frozen: Frozen | None = None
        self._calls = 0
        self._matrix = torch.zeros(0, 0)  # gradients [n, P] of a solve
        self._vector = torch.zeros(0)  # gradient [P] of one pass, of which `.grad` are views

    def backward(self, task_losses: Sequence[Tensor]) -> Tensor:
        """Write `.grad` of all shared parameters for one scalar loss per task; return the task weights, ones [n].

        Raises ValueError for losses that are not scalar tensors, a wrong task_num, missing get_share_params or rep.
        """
        losses = checked_losses(task_losses, self.task_num)
        params = trainable(self.get_share_params()) if self.get_share_params is not None else []
        if not params:
            raise ValueError("get_share_params: got no trainable parameter, expected e.g. lambda: model.parameters()")
        device = params[0].device if self.device is None else torch.empty(0, device=self.device).device
        if self.rep_grad:
            vector, finite = self._through_representation(losses, params, device)
        elif self.method == "sum":
            vector, finite = self._one_pass(torch.stack(losses).sum(), losses, params, device)
        elif self._calls % self.every > 0 and self._frozen is not None and len(self._frozen.weights) == len(losses):
            vector, finite = self._reuse(self._frozen, losses, params, device)
        else:
            vector, finite = self._solve(losses, params, device)
        self._calls += 1
        is_good = finite.all()
        self.skipped = self.skipped.to(device) + ~is_good
        found_inf = (~is_good).to(torch.float32)
        self.last_metrics |= {"nonfinite": ~finite, "skipped": self.skipped, "found_inf": found_inf}
        vector.masked_fill_(~is_good, 0.0)
        for param, grad in zip(params, unflatten(vector, params), strict=True):
            param.grad = grad
        return torch.ones(len(losses), device=device)

    def reset(self) -> None:
        """Forget all state from earlier gradients; needed when tasks or parameters change."""
        self.aggregator.reset()
        self._frozen = None
        self._calls = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all state that later gradients and metrics depend on, readable by torch.load(weights_only=True)."""
        return {
            "aggregator": dict(self.aggregator.state_dict()),
            "frozen": None if self._frozen is None else self._frozen._asdict(),
            "calls": self._calls,
            "skipped": self.skipped,
            "metrics": dict(self.last_metrics),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()` of another instance. ValueError if keys are missing or unknown."""
        expected = {"aggregator", "frozen", "calls", "skipped", "metrics"}
        if set(state) != expected:
            raise ValueError(f"state: got the keys {sorted(state)}, expected {sorted(expected)}")
        self.aggregator.load_state_dict(state["aggregator"])
        self._frozen = None if state["frozen"] is None else Frozen(**state["frozen"])
        self._calls = int(state["calls"])
        self.skipped, self.last_metrics = state["skipped"].clone(), dict(state["metrics"])

    def _solve(self, losses: list[Tensor], params: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """Run one backward pass per task; return (gradient [P], finite per task [n])."""
        matrix = self._matrix = _reused(self._matrix, (len(losses), count_entries(params)), device)
        owners = fill_matrix(losses, params, matrix, keep_graph=False)
        self.average([matrix])
        finite = are_finite(losses, device, self.average) & torch.isfinite(torch.linalg.vector_norm(matrix, dim=1))
        plain = []
        for _, start, stop in plain_runs(owners, params):
            columns = matrix[:, start:stop]
            plain.append((start, stop, columns.sum(dim=0)))
            columns.zero_()  # zero columns change neither angles nor norms, and the consensus keeps one size
        vector = self._aggregate(matrix, finite, owners)
        for start, stop, values in plain:
            vector[start:stop] = values
        return vector, finite

    def _reuse(
        self, frozen: Frozen, losses: list[Tensor], params: list[Tensor], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Run one backward pass of Σ C_i L_i with the weights C of the last solve."""
        weighted = torch.stack(losses) * frozen.weights.to(losses[0])
        vector, finite = self._one_pass(weighted.sum(), losses, params, device)
        return complete(vector, self.aggregator.d, frozen, params), finite

    def _one_pass(
        self, total: Tensor, losses: list[Tensor], params: list[Tensor], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        vector = self._vector = _reused(self._vector, (count_entries(params),), device)
        flatten(gradient(total, params, retain_graph=False), params, vector)
        self.average([vector])
        is_good = torch.isfinite(torch.linalg.vector_norm(vector))
        finite = are_finite(losses, device, self.average)
        # a non-finite gradient of finite losses cannot be attributed to one task here, so all are marked
        return vector, finite & (is_good | ~finite.all())

    def _through_representation(
        self, losses: list[Tensor], params: list[Tensor], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Balance at `rep`, then run one pass with the plain losses and the change by balancing at `rep`.

        The gradient is d ΣL/dp + J_rep(p)ᵀ (G - Σ_i g_i): the plain sum for parameters that feed no rep, J_repᵀ G for
        those that feed nothing else.
        """
        if self.rep is None:
            raise ValueError("rep: got None, expected this batch's representation, since rep_grad is True")
        if self.every > 1:
            raise ValueError(f"every: got {self.every}, expected 1, since rep_grad is True")
        if self.average is not alone:
            raise ValueError("average: got one with rep_grad, expected none: activations have no mean over processes")
        reps = [self.rep] if isinstance(self.rep, Tensor) else list(self.rep)
        self.rep = None  # it keeps the graph alive
        matrix = self._matrix = _reused(self._matrix, (len(losses), count_entries(reps)), device)
        owners = fill_matrix(losses, reps, matrix, keep_graph=True)
        finite = are_finite(losses, device) & torch.isfinite(torch.linalg.vector_norm(matrix, dim=1))
        change = self._aggregate(matrix, finite, owners) - matrix.sum(dim=0)
        total = torch.stack(losses).sum()
        outputs, seeds = [total, *reps], [torch.ones_like(total), *unflatten(change, reps)]
        gradients = torch.autograd.grad(outputs, params, seeds, allow_unused=True)
        vector = flatten(gradients, params, torch.empty(count_entries(params), device=device))
        return vector, finite & torch.isfinite(torch.linalg.vector_norm(vector))

    def _aggregate(self, matrix: Tensor, finite: Tensor, owners: list[int]) -> Tensor:
        """Combine the gradient matrix [n, P] into one vector [P] by `method`; store metrics and weights for reuse."""
        if self.method == "rgb":
            return self._balance(matrix, finite, owners)
        norms = torch.linalg.vector_norm(matrix, dim=1)
        gram = rotation.unit_gram(matrix, rotation.inverse_norms(norms), matrix.new_zeros(matrix.shape[1]))
        self.last_metrics = {"task_grad_norm": norms, "task_cosine": gram[:-1, :-1]}
        return matrix.sum(dim=0) if self._baseline is None else combine(self._baseline, matrix, finite.all())

    def _balance(self, matrix: Tensor, finite: Tensor, owners: list[int]) -> Tensor:
        if self.rep_grad:
            self.aggregator.reset()  # activations of different samples have no consensus
        balanced = self.aggregator.balance(matrix, finite.all())
        self.last_metrics = {
            "task_grad_norm": balanced.norms,
            "task_cosine": balanced.cosines,
            "theta": balanced.theta,
            "alpha": balanced.alpha,
        }
        if self.every > 1:
            self._frozen = freeze(balanced, owners, self._frozen)
        return balanced.vector


def _reused(kept: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return `kept`, or zeros if its shape or device has changed; reusing it saves an allocation per call."""
    return kept if kept.shape == shape and kept.device == device else torch.zeros(shape, device=device)
