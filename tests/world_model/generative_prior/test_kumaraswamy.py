import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch.distributions import Beta, kl_divergence

from world_model.generative_prior import Kumaraswamy, expected_neg_log1m

SQUASH = [-3.0, -1.5, 0.0, 1.5, 3.0]
BETAS = [(1.0, 0.5), (1.0, 1.0), (1.0, 4.0), (1.0, 15.0), (2.5, 0.7), (0.4, 3.0)]


def log_pdf(a, b, log_v, log_s):
    return math.log(a * b) + (a - 1) * log_v + (b - 1) * log_s


def reference_kl(expectation, a, b, p, m):
    def log_ratio(log_v, log1m_v, log_s):
        return log_pdf(a, b, log_v, log_s) - (p - 1) * log_v - (m - 1) * log1m_v + special.betaln(p, m)

    return expectation(a, b, log_ratio)


def kumaraswamy(log_a, log_b, dtype=torch.float32):
    return Kumaraswamy(torch.tensor(log_a, dtype=dtype), torch.tensor(log_b, dtype=dtype))


def test_expected_neg_log1m_has_its_closed_values():
    def s(a, b):
        return expected_neg_log1m(torch.tensor(a).log(), torch.tensor(b).log()).item()

    assert s(2.0, 3.0) == pytest.approx(0.7, abs=2e-6)
    assert s(0.5, 1.0) == pytest.approx(2 - 2 * math.log(2), abs=2e-6)
    for x in (0.05, 0.3, 1.0, 4.0, 20.0):
        assert s(1.0, x) == pytest.approx(1 / x, rel=2e-6)
        assert s(x, 1.0) == pytest.approx(special.digamma(x + 1) + np.euler_gamma, abs=4e-6)


@pytest.mark.parametrize(("num_nodes", "tolerance"), [(16, 1.2e-4), (32, 8e-6)])  # rule 5e-5 and 4e-7, rest float32
def test_expected_neg_log1m_matches_integration(expectation, num_nodes, tolerance):
    grid = np.linspace(-3, 3, 9)
    log_a, log_b = (torch.tensor(x, dtype=torch.float32) for x in np.meshgrid(grid, grid, indexing="ij"))
    want = [[-expectation(math.exp(i), math.exp(j), lambda _, log1m_v, __: log1m_v) for j in grid] for i in grid]
    np.testing.assert_allclose(expected_neg_log1m(log_a, log_b, num_nodes), want, rtol=1e-6, atol=tolerance)


def test_expected_neg_log1m_names_a_wrong_number_of_nodes():
    with pytest.raises(ValueError, match="num_nodes: got 7"):
        expected_neg_log1m(torch.zeros(2), torch.zeros(2), num_nodes=7)


@pytest.mark.parametrize(("p", "m"), BETAS)
def test_kl_matches_integration_over_the_whole_squash_range(expectation, p, m):
    for log_a, log_b in product(SQUASH, SQUASH):
        got = kl_divergence(kumaraswamy(log_a, log_b), Beta(torch.tensor(p), torch.tensor(m))).item()
        want = reference_kl(expectation, math.exp(log_a), math.exp(log_b), p, m)
        assert got == pytest.approx(want, rel=1e-6, abs=1e-4), (log_a, log_b)


def test_kl_matches_integration_of_the_densities():
    # A second reference without any substitution, where the densities are tame
    for a, b, p, m in [(2.0, 3.0, 1.0, 4.0), (1.5, 2.5, 2.0, 2.0), (3.0, 1.2, 1.3, 1.1)]:

        def term(v, a=a, b=b, p=p, m=m):
            log_q = math.log(a * b) + (a - 1) * math.log(v) + (b - 1) * math.log1p(-(v**a))
            return math.exp(log_q) * (log_q - stats.beta.logpdf(v, p, m))

        want = integrate.quad(term, 0, 1)[0]
        got = kl_divergence(kumaraswamy(math.log(a), math.log(b)), Beta(torch.tensor(p), torch.tensor(m))).item()
        assert got == pytest.approx(want, abs=1e-5)


def test_kl_is_zero_only_where_both_are_the_same_distribution():
    values = torch.tensor([0.05, 0.3, 1.0, 3.0, 15.0])
    one = torch.ones(())
    np.testing.assert_allclose(kl_divergence(Kumaraswamy(0 * values, values.log()), Beta(one, values)), 0, atol=2e-5)
    np.testing.assert_allclose(kl_divergence(Kumaraswamy(values.log(), 0 * values), Beta(values, one)), 0, atol=2e-5)
    same_numbers = kl_divergence(kumaraswamy(math.log(3.0), math.log(4.0)), Beta(torch.tensor(3.0), torch.tensor(4.0)))
    assert same_numbers > 1e-2
    for shift in (-0.2, 0.2):
        assert kl_divergence(kumaraswamy(shift, math.log(3.0)), Beta(one, 3 * one)) > 1e-3
        assert kl_divergence(kumaraswamy(0.0, math.log(3.0) + shift), Beta(one, 3 * one)) > 1e-3


def test_kl_is_not_clamped_at_zero():
    m = torch.linspace(0.1, 15, 200)
    kl = kl_divergence(Kumaraswamy(torch.zeros(200), m.log()), Beta(torch.ones(200), m))
    assert (kl < 0).any()  # the rounding of a true zero goes both ways


@pytest.mark.parametrize(("p", "m"), [(1.0, 1.0), (1.0, 15.0), (2.5, 0.7)])
def test_kl_gradient_equals_central_differences_of_the_reference(expectation, p, m):
    step = 1e-4
    for x, y in product([-3.0, -0.7, 0.05, 3.0], [-3.0, 0.1, 3.0]):
        log_a, log_b = torch.tensor(x, requires_grad=True), torch.tensor(y, requires_grad=True)
        kl_divergence(Kumaraswamy(log_a, log_b), Beta(torch.tensor(p), torch.tensor(m))).backward()

        def kl(dx, dy, x=x, y=y):
            return reference_kl(expectation, math.exp(x + dx), math.exp(y + dy), p, m)

        want = ((kl(step, 0) - kl(-step, 0)) / (2 * step), (kl(0, step) - kl(0, -step)) / (2 * step))
        assert log_a.grad.item() == pytest.approx(want[0], rel=1e-4, abs=1e-3), (x, y)
        assert log_b.grad.item() == pytest.approx(want[1], rel=1e-4, abs=1e-3), (x, y)


def test_moments_and_entropy_match_integration(expectation):
    for log_a, log_b in product(SQUASH, SQUASH):
        a, b = math.exp(log_a), math.exp(log_b)
        stick = kumaraswamy(log_a, log_b)
        first, second = (expectation(a, b, lambda log_v, *_, n=n: np.exp(n * log_v)) for n in (1, 2))
        entropy = -expectation(a, b, lambda log_v, _, log_s, a=a, b=b: log_pdf(a, b, log_v, log_s))
        assert stick.mean.item() == pytest.approx(first, rel=1e-4)  # lgamma of 20 in float32
        assert stick.variance.item() == pytest.approx(second - first**2, rel=1e-3, abs=1e-6)
        assert stick.entropy().item() == pytest.approx(entropy, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("log_a", "log_b"), [(0.0, 0.0), (1.2, -0.7), (-1.0, 1.5), (2.0, 2.5)])
def test_samples_follow_the_distribution(expectation, log_a, log_b):
    a, b = math.exp(log_a), math.exp(log_b)
    stick = kumaraswamy(log_a, log_b)
    v = stick.rsample((20_000,), torch.Generator().manual_seed(0)).double().numpy()
    assert stats.kstest(v, lambda x: 1 - (1 - x**a) ** b).pvalue > 1e-3
    for order in (1, 2):
        want = expectation(a, b, lambda log_v, *_, n=order: np.exp(n * log_v))
        assert abs((v**order).mean() - want) < 4 * (v**order).std() / math.sqrt(v.size)


def test_cdf_and_log_prob_match_the_formulas():
    v = torch.linspace(0.01, 0.99, 25)
    x = v.double().numpy()
    for a, b in [(0.3, 0.4), (1.0, 1.0), (2.0, 5.0), (7.0, 0.6)]:
        stick = kumaraswamy(math.log(a), math.log(b))
        np.testing.assert_allclose(stick.cdf(v), 1 - (1 - x**a) ** b, atol=1e-6)
        want = np.log(a * b) + (a - 1) * np.log(x) + (b - 1) * np.log1p(-(x**a))
        np.testing.assert_allclose(stick.log_prob(v), want, rtol=1e-5, atol=1e-5)


def test_density_and_cdf_at_the_ends_of_the_interval():
    ends = torch.tensor([0.0, 1.0])
    np.testing.assert_array_equal(kumaraswamy(0.0, 0.0).log_prob(ends), [0.0, 0.0])  # uniform, no 0 times inf
    np.testing.assert_array_equal(kumaraswamy(0.7, 0.4).log_prob(ends), [-math.inf, -math.inf])
    np.testing.assert_array_equal(kumaraswamy(0.7, 0.4).cdf(ends), [0.0, 1.0])


def test_log_quantile_where_the_power_form_rounds_to_zero_or_one():
    log_v, _ = kumaraswamy(-4.0, 4.0).log_quantile(torch.tensor(0.5))
    assert log_v.item() == pytest.approx(-238.7, abs=0.05)
    log_v, _ = kumaraswamy(4.0, 4.0).log_quantile(torch.tensor(1 - 1e-6))
    assert log_v.item() == pytest.approx(-0.326, abs=1e-3)
    survival = torch.tensor([1e-30, 1e-7, 1e-3, 0.5, 0.999, 1 - 2**-20])
    log_u = survival.double().log().numpy()

    def log1mexp(x):  # ln(1 - e^x), x < 0
        with np.errstate(divide="ignore"):
            return np.where(x > -0.5, np.log(-np.expm1(x)), np.log1p(-np.exp(x)))

    for log_a, log_b in product([-4.0, -3.0, 0.0, 3.0, 4.0], repeat=2):
        log_v, log1m_v = kumaraswamy(log_a, log_b).log_quantile(survival)
        log_s = log_u * math.exp(-log_b)
        want_v = log1mexp(log_s) / math.exp(log_a)
        np.testing.assert_allclose(log_v, want_v, rtol=1e-5, atol=1e-30)
        want_1m = np.where(log_s < -600, log_s - log_a, log1mexp(want_v))
        np.testing.assert_allclose(log1m_v, want_1m, rtol=1e-5, atol=1e-30)


def test_samples_and_their_gradients_are_finite_beyond_the_squash_range():
    log_a, log_b = torch.cartesian_prod(torch.linspace(-5, 5, 11), torch.linspace(-5, 5, 11)).T.clone()
    log_a.requires_grad_()
    log_b.requires_grad_()
    log_v, log1m_v = Kumaraswamy(log_a, log_b).log_rsample((500,), torch.Generator().manual_seed(0))
    assert torch.isfinite(log_v).all()
    assert torch.isfinite(log1m_v).all()
    assert (log_v <= 0).all()
    assert (log1m_v <= 0).all()
    for gradient in torch.autograd.grad(log_v.mean() + log1m_v.mean(), (log_a, log_b)):
        assert torch.isfinite(gradient).all()


def test_sample_gradient_equals_central_differences():
    survival = torch.tensor([1e-3, 0.2, 0.7, 0.999], dtype=torch.float64)
    at = torch.tensor([0.4, -0.8], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Kumaraswamy(x[0], x[1]).log_quantile(survival), (at,), atol=1e-6)


def test_rsample_stays_inside_the_open_interval():
    v = kumaraswamy(math.log(0.1), math.log(0.1)).rsample((10_000,), torch.Generator().manual_seed(0))
    assert v.min() > 0
    assert v.max() < 1  # the naive form rounds 18 % of these to 1


def test_broadcast_expand_and_precision():
    stick = Kumaraswamy(torch.zeros(3, 1), torch.zeros(4))
    assert stick.rsample((2,)).shape == (2, 3, 4)
    assert stick.expand((5, 3, 4)).mean.shape == (5, 3, 4)
    assert Kumaraswamy(torch.zeros(2).half(), torch.zeros(2).half()).mean.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = expected_neg_log1m(torch.tensor(2.0).log(), torch.tensor(3.0).log())
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(0.7, abs=2e-6)


def test_constants_made_in_inference_mode_still_serve_training(monkeypatch):
    monkeypatch.setattr("world_model.generative_prior.kumaraswamy._RULE_TENSORS", {})
    with torch.inference_mode():
        expected_neg_log1m(torch.zeros(2), torch.zeros(2))
    log_a = torch.zeros(2, requires_grad=True)
    expected_neg_log1m(log_a, torch.zeros(2)).sum().backward()
    # dS/d ln a at b = 1 is a ψ'(a+1), which is π²/6 - 1 at a = 1
    np.testing.assert_allclose(log_a.grad, math.pi**2 / 6 - 1, rtol=1e-5)
