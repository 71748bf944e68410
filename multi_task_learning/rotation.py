"""Rotation-based gradient balancing on a gradient matrix [tasks n, params P]: pure functions, float32.

Every task's unit gradient ḡ_i is rotated by an angle α_i in span(ḡ_i, d) towards a common direction d, never past it:

    r_i(α_i) = [sin(θ_i - α_i) ḡ_i + sin α_i d] / sin θ_i,     0 ≤ α_i ≤ θ_i = arccos(ḡ_i·d)
    Φ(α) = 1/(n(n-1)) Σ_{i<j} (1 - r_i·r_j) + λ/(2n) Σ_i (1 - cos α_i)

All r_i are rows of coefficients [n, n+1] on the basis {ḡ_1 .. ḡ_n, d}, so everything but two passes over the matrix is
computed on its Gram matrix [n+1, n+1]. Branches are torch.where, without synchronising with the device. A task that is
not `active` (its gradient is zero) is ignored. Source: RGB, openreview l0QAezg8HX; the cap at θ_i is ours.
"""

import math

import torch
from torch import Tensor

MIN_NORM = 1e-10  # below it a task counts as having no gradient
MIN_AGREEMENT = 1e-3  # length of the mean unit gradient below which it defines no direction
MIN_SINE_ANGLE = 1e-3  # closer to 0 or π, the plane of the rotation is not defined


def check_solver(lambd: float, steps: int, learning_rate: float) -> None:
    """Raise ValueError for settings of `solve_angles` out of range, under the names that users set."""
    if not 0.0 <= lambd < float("inf"):
        raise ValueError(f"lambd: got {lambd}, expected a finite number >= 0")
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"alpha_steps: got {steps}, expected an integer >= 0")
    if not 0.0 < learning_rate < float("inf"):
        raise ValueError(f"lr_inner: got {learning_rate}, expected a finite number > 0")


def inverse_norms(norms: Tensor) -> Tensor:
    """Return 1/‖g_i‖ [n] of norms [n], 0 for tasks without a gradient."""
    return torch.where(norms < MIN_NORM, torch.zeros_like(norms), 1.0 / norms.clamp_min(MIN_NORM))


def update_consensus(matrix: Tensor, inverse: Tensor, previous: Tensor, mu: float) -> Tensor:
    """Return d = normalise(μ d_previous + (1-μ) ŷ), y the mean unit gradient; [n, P], [n], [P] -> [P].

    `previous` is a unit vector, or zeros if there is none yet (then d = ŷ). It is kept if the gradients cancel.
    """
    count = (inverse > 0).sum().clamp_min(1)
    mean = (inverse / count) @ matrix  # [P]
    length = torch.linalg.vector_norm(mean)
    has_previous = is_direction(previous)
    # d = old · previous + new · mean, blended through scalars, since each pass over P entries is expensive
    old = torch.where(has_previous, torch.full_like(length, mu), torch.zeros_like(length))
    new = (1.0 - old) / length.clamp_min(MIN_AGREEMENT)
    square = (old * torch.linalg.vector_norm(previous)).square() + (new * length).square()
    blend_length = (square + 2.0 * old * new * (previous @ mean)).clamp_min(0.0).sqrt()
    agreed = (length > MIN_AGREEMENT) & (blend_length > MIN_AGREEMENT)
    blend_length = blend_length.clamp_min(MIN_AGREEMENT)
    old = torch.where(agreed, old / blend_length, torch.ones_like(old))
    new = torch.where(agreed, new / blend_length, torch.zeros_like(new))
    return (previous * old).addcmul_(mean, new)


def fold_consensus(weights: Tensor, consensus_weight: Tensor, gram: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Rewrite Σ w_i g_i + c d, d = Σ ḡ_j / ‖Σ ḡ_j‖, as a sum of gradients alone: return weights [n], and 0 for d.

    Otherwise a lazy step would add the d of an older batch, and Adam amplifies contributions that stay constant.
    """
    length = gram[:-1, :-1].sum().clamp_min(0.0).sqrt().clamp_min(MIN_AGREEMENT)
    return weights + consensus_weight * inverse / length, torch.zeros_like(consensus_weight)


def is_direction(vector: Tensor) -> Tensor:
    """Return whether a consensus vector [P] is a unit vector and not the zeros that mean "none", as a bool scalar."""
    return torch.linalg.vector_norm(vector) > 0.5


def unit_gram(matrix: Tensor, inverse: Tensor, consensus: Tensor) -> Tensor:
    """Return the Gram matrix [n+1, n+1] of {ḡ_1 .. ḡ_n, d}; rows and columns of inactive tasks are 0."""
    towards = inverse * (matrix @ consensus)  # [n]
    return add_consensus(cosines(matrix @ matrix.T, inverse), towards, is_direction(consensus))


def cosines(products: Tensor, inverse: Tensor) -> Tensor:
    """Return ḡ_i·ḡ_j [n, n] for the products g_i·g_j [n, n]; rows and columns of inactive tasks are 0."""
    tasks = (inverse[:, None] * products) * inverse  # [n, n]; in this order no product over- or underflows
    tasks = torch.triu(tasks, 1)
    return tasks + tasks.T + torch.diag((inverse > 0).to(products.dtype))


def add_consensus(tasks: Tensor, towards: Tensor, has_consensus: Tensor) -> Tensor:
    """Return the Gram matrix [n+1, n+1] of unit vectors for the tasks' [n, n], ḡ_i·d [n] and whether d exists."""
    corner = has_consensus.to(tasks.dtype)
    upper = torch.cat([tasks, towards[:, None]], dim=1)  # [n, n+1]
    gram = torch.cat([upper, torch.cat([towards, corner[None]])[None]])  # [n+1, n+1]
    return gram.clamp(-1.0, 1.0)


def angles(gram: Tensor) -> Tensor:
    """Return θ_i = arccos(ḡ_i·d) in [0, π]; [n+1, n+1] -> [n]."""
    return torch.arccos(gram[:-1, -1])


def _rotates(theta: Tensor) -> Tensor:
    return (theta >= MIN_SINE_ANGLE) & (math.pi - theta >= MIN_SINE_ANGLE)


def coefficients(alpha: Tensor, theta: Tensor) -> Tensor:
    """Return r_i on the basis {ḡ_1 .. ḡ_n, d}; [n], [n] -> [n, n+1]. r_i = ḡ_i if θ_i is within 1e-3 of 0 or π."""
    rotates = _rotates(theta)
    sine = torch.where(rotates, theta.sin(), torch.ones_like(theta))
    own = torch.where(rotates, (theta - alpha).sin() / sine, torch.ones_like(theta))
    towards = torch.where(rotates, alpha.sin() / sine, torch.zeros_like(theta))
    return torch.cat([torch.diag(own), towards[:, None]], dim=1)


def _derivative(alpha: Tensor, theta: Tensor) -> Tensor:
    """Return r_i' = dr_i/dα_i on the same basis: unit vectors, or 0 if r_i is fixed; [n], [n] -> [n, n+1]."""
    rotates = _rotates(theta)
    sine = torch.where(rotates, theta.sin(), torch.ones_like(theta))
    own = torch.where(rotates, -(theta - alpha).cos() / sine, torch.zeros_like(theta))
    towards = torch.where(rotates, alpha.cos() / sine, torch.zeros_like(theta))
    return torch.cat([torch.diag(own), towards[:, None]], dim=1)


def _counts(active: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of active tasks n, and of ordered pairs n(n-1), both at least 1 for division."""
    count = active.sum()
    return count.clamp_min(1), (count * (count - 1)).clamp_min(1)


def objective(alpha: Tensor, theta: Tensor, gram: Tensor, active: Tensor, lambd: float) -> Tensor:
    """Return Φ(α), a scalar: disagreement of the rotated gradients plus cost of rotation; [n] x2, [n+1, n+1], [n]."""
    count, pairs = _counts(active)
    rows = coefficients(alpha, theta)
    cosines = rows @ gram @ rows.T  # [n, n]
    both = torch.triu((active[:, None] & active).to(alpha.dtype), 1)
    disagreement = (both * (1.0 - cosines)).sum() / pairs
    return disagreement + lambd * (active * (1.0 - alpha.cos())).sum() / (2 * count)


def objective_gradient(alpha: Tensor, theta: Tensor, gram: Tensor, active: Tensor, lambd: float) -> Tensor:
    """Return ∂Φ/∂α_i = -1/(n(n-1)) Σ_{j≠i} r_i'·r_j + λ/(2n) sin α_i [n], 0 for inactive tasks; as `objective`."""
    count, pairs = _counts(active)
    products = _derivative(alpha, theta) @ gram @ coefficients(alpha, theta).T  # [n, n]: r_i'·r_j
    others = (active[:, None] & active).to(alpha.dtype).fill_diagonal_(0.0)
    return active * (lambd * alpha.sin() / (2 * count) - (others * products).sum(dim=1) / pairs)


def solve_angles(
    start: Tensor, theta: Tensor, gram: Tensor, active: Tensor, steps: int, learning_rate: float, lambd: float
) -> Tensor:
    """Take a few steps of projected gradient descent on Φ over 0 ≤ α_i ≤ θ_i from `start` [n]; return α [n] in radians.

    Exactly opposed gradients make α = 0 a saddle; there α_i starts at 0.05 θ_i instead, if that lowers Φ.
    """
    limit = torch.where(_rotates(theta) & active, theta, torch.zeros_like(theta))
    alpha = start.clamp_min(0.0).minimum(limit)
    flat = objective_gradient(alpha, theta, gram, active, lambd).abs() < 1e-6
    nudged = torch.where(flat & (alpha == 0.0) & (theta > math.pi / 4), 0.05 * limit, alpha)
    better = objective(nudged, theta, gram, active, lambd) < objective(alpha, theta, gram, active, lambd)
    alpha = torch.where(better, nudged, alpha)
    for _ in range(steps):
        slope = objective_gradient(alpha, theta, gram, active, lambd)
        alpha = (alpha - learning_rate * slope).clamp_min(0.0).minimum(limit)
    return alpha
