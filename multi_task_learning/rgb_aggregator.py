"""RGBAggregator: rotation-based gradient balancing as a stateful torchjd aggregator."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Aggregator

from multi_task_learning import rotation

Scale = Literal["sum", "unit", "per_task"]


class Balanced(NamedTuple):
    """The result of one aggregation, `vector` = Σ_i weights_i g_i + consensus_weight · d, with its ingredients."""

    vector: Tensor  # [P]
    weights: Tensor  # [n], on the raw gradients
    consensus_weight: Tensor  # scalar
    norms: Tensor  # [n]
    cosines: Tensor  # [n, n]
    theta: Tensor  # [n], radians to the common direction
    alpha: Tensor  # [n], radians rotated towards it
    is_finite: Tensor  # bool scalar; if False, vector is 0 and the state has not changed


class RGBAggregator(Aggregator, Stateful):
    """The sum of n tasks' unit gradients, rotated towards their running consensus (see `rotation`).

    G = (Σ‖g_i‖) · (1/n) Σ r_i for scale="sum": the identity for one task, the sum for identical tasks, and a direction
    that does not change when one loss is rescaled. "unit" is (1/n) Σ r_i, "per_task" Σ ‖g_i‖ r_i.

    The state is the consensus d, the angles α and the number of calls, in buffers that are empty before the first call;
    `load_state_dict` accepts any size.

    Example::

        aggregator = RGBAggregator()
        aggregator(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    """

    d: Tensor  # [P] unit vector, zeros without a consensus so far, [0] before the first call
    alpha: Tensor  # [n]
    step: Tensor  # int64 scalar

    def __init__(
        self,
        mu: float = 0.9,
        lambd: float = 1.0,
        alpha_steps: int = 3,
        lr_inner: float = 0.2,
        scale: Scale = "sum",
    ) -> None:
        super().__init__()
        if not 0.0 <= mu < 1.0:
            raise ValueError(f"mu: got {mu}, expected a number in [0, 1)")
        rotation.check_solver(lambd, alpha_steps, lr_inner)
        if scale not in get_args(Scale):
            raise ValueError(f"scale: got {scale!r}, expected one of {', '.join(get_args(Scale))}")
        self.mu, self.lambd, self.alpha_steps, self.lr_inner, self.scale = mu, lambd, alpha_steps, lr_inner, scale
        self.register_buffer("d", torch.zeros(0))
        self.register_buffer("alpha", torch.zeros(0))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def reset(self) -> None:
        """Forget consensus, angles and count."""
        self.d = self.d.new_zeros(0)
        self.alpha = self.alpha.new_zeros(0)
        self.step = torch.zeros_like(self.step)

    def forward(self, matrix: Tensor, /) -> Tensor:
        """Return the balanced sum [params] of gradients [tasks, params], in their dtype; zeros if any is not finite."""
        return self.balance(matrix).vector.to(matrix.dtype)

    @torch.no_grad()
    def balance(self, matrix: Tensor, is_valid: Tensor | None = None) -> Balanced:
        """Balance gradients [n, P], updating the state unless `is_valid` (a bool scalar) is False.

        ValueError if n or P has changed, or `matrix` is not a matrix.
        """
        if matrix.ndim != 2 or len(matrix) == 0:
            raise ValueError(f"matrix: got shape {list(matrix.shape)}, expected [tasks, params]")
        self._fit_state(matrix)
        with torch.autocast(matrix.device.type, enabled=False):
            return self._balance(matrix.float(), is_valid)

    def _balance(self, matrix: Tensor, is_valid: Tensor | None) -> Balanced:
        norms = torch.linalg.vector_norm(matrix, dim=1)  # [n]
        is_finite = torch.isfinite(norms).all()
        if is_valid is not None:
            is_finite = is_finite & is_valid
        inverse = rotation.inverse_norms(norms)
        active = inverse > 0
        consensus = rotation.update_consensus(matrix, inverse, self.d, self.mu)
        gram = rotation.unit_gram(matrix, inverse, consensus)
        theta = rotation.angles(gram)
        alpha = rotation.solve_angles(self.alpha, theta, gram, active, self.alpha_steps, self.lr_inner, self.lambd)
        weights, consensus_weight = self._weights(rotation.coefficients(alpha, theta), norms, inverse)
        if self.mu == 0.0:  # without memory, d and thus G are combinations of these gradients
            weights, consensus_weight = rotation.fold_consensus(weights, consensus_weight, gram, inverse)
        has_consensus = rotation.is_direction(consensus)
        weights = torch.where(has_consensus, weights, torch.ones_like(weights))
        consensus_weight = torch.where(has_consensus, consensus_weight, torch.zeros_like(consensus_weight))
        vector = (weights @ matrix).addcmul_(consensus, consensus_weight)
        vector = torch.where(is_finite, vector, vector.new_zeros(()))

        self.d = torch.where(is_finite, consensus, self.d)
        self.alpha = torch.where(is_finite & active, alpha, self.alpha)
        self.step = self.step + is_finite
        return Balanced(vector, weights, consensus_weight, norms, gram[:-1, :-1], theta, alpha, is_finite)

    def _weights(self, rows: Tensor, norms: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights [n] on the raw gradients, and one on d, for coefficients [n, n+1] on the unit vectors."""
        active = (inverse > 0).to(norms.dtype)
        lengths = norms * active
        share = active / active.sum().clamp_min(1.0)
        if self.scale == "sum":
            share = share * lengths.sum()
        elif self.scale == "per_task":
            share = lengths
        return share * rows.diagonal() * inverse, (share * rows[:, -1]).sum()

    def _fit_state(self, matrix: Tensor) -> None:
        num_tasks, num_params = matrix.shape
        if self.d.numel() == 0 and self.alpha.numel() == 0:
            self.d = torch.zeros(num_params, device=matrix.device)
            self.alpha = torch.zeros(num_tasks, device=matrix.device)
        if (len(self.alpha), len(self.d)) != (num_tasks, num_params):
            expected = f"{[len(self.alpha), len(self.d)]} as before (or call reset())"
            raise ValueError(f"matrix: got shape {list(matrix.shape)}, expected {expected}")
        self.d, self.alpha = self.d.to(matrix.device), self.alpha.to(matrix.device)
        self.step = self.step.to(matrix.device)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("d", "alpha"):  # their sizes are part of the state
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and saved.ndim == 1:
                setattr(self, name, torch.zeros(saved.shape, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
