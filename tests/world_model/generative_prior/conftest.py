"""An independent reference for expectations under a Kumaraswamy, in numpy float64."""

from collections.abc import Callable

import numpy as np
import pytest

Integrand = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@pytest.fixture
def expectation() -> Callable[[float, float, Integrand], float]:
    """E[f(ln v, ln(1-v), ln(1-v^a))] with -ln(1-v^a) = x/b, x ~ Exponential(1), by the trapezoid rule in ln x."""

    def integrate(a: float, b: float, f: Integrand) -> float:
        y = np.arange(-45.0, 5.0, 0.01)  # the integrand decays like e^y below and exp(-e^y) above
        x = np.exp(y)
        log_s = -x / b
        with np.errstate(divide="ignore"):
            log_v = np.where(log_s > -0.5, np.log(-np.expm1(log_s)), np.log1p(-np.exp(log_s))) / a
            log1m_v = np.where(log_s < -600, log_s - np.log(a), np.log(-np.expm1(log_v)))
        return float(np.sum(f(log_v, log1m_v, log_s) * np.exp(y - x)) * 0.01)

    return integrate
