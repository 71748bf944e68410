"""Published methods to combine conflicting gradients, from torchjd, for comparison with RGB."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torchjd.aggregation import MGDA, Aggregator, CAGrad, NashMTL, PCGrad, UPGrad

BASELINES: dict[str, Callable[[], Aggregator]] = {
    "pcgrad": PCGrad,
    "cagrad": partial(CAGrad, c=0.4),
    "mgda": MGDA,
    "upgrad": UPGrad,
    "nash_mtl": partial(NashMTL, n_tasks=3),  # `combine` sets the true number
}


def make_baseline(method: str) -> Aggregator:
    """Return the torchjd aggregator of a name in `BASELINES`; ValueError if its solvers are not installed.

    Their own state (NashMTL's warm start) is not in `RGB.state_dict`, and PCGrad draws from torch's global generator.
    """
    try:
        return BASELINES[method]()
    except (ImportError, NameError) as error:  # torchjd raises NameError for a half-installed solver
        hint = "pip install 'aime-rl[compare]'"
        raise ValueError(f"method: {method!r} needs solvers that are not installed, {hint}") from error


def combine(baseline: Aggregator, matrix: Tensor, is_valid: Tensor) -> Tensor:
    """Combine gradients [tasks, params] into one vector [params]; zeros if `is_valid` (a bool scalar) is False."""
    if isinstance(baseline, NashMTL) and baseline.n_tasks != len(matrix):
        baseline.n_tasks = len(matrix)
        baseline.reset()
    if not bool(is_valid):  # the solvers synchronise with the device anyway, and raise on NaN
        return matrix.new_zeros(matrix.shape[1])
    return baseline(matrix)
