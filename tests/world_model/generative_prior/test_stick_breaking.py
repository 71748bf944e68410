import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from world_model.generative_prior import (
    concentration_kl,
    concentration_posterior,
    expected_stick_log_weights,
    expected_stick_weights,
    infer_concentration,
    sample_stick_log_weights,
    stick_breaking_log_weights,
    stick_breaking_weights,
)


def random_sticks(num_sticks, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (4 * torch.rand(2, num_sticks, generator=generator) - 2).unbind(0)


def uniform_sticks(num_components):
    """a = 1 and b_k = K - k: expected weights 1/K each."""
    log_b = torch.arange(num_components - 1, 0, -1).float().log()
    return torch.zeros_like(log_b), log_b


def test_weights_by_hand():
    weights = stick_breaking_weights(torch.tensor([0.5, 0.25, 0.8]))
    np.testing.assert_allclose(weights, [0.5, 0.125, 0.3, 0.075], rtol=1e-6)


def test_weights_sum_to_one():
    v = torch.rand(7, 5, 14, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(stick_breaking_weights(v).sum(-1), 1, rtol=2e-6)
    log_a, log_b = random_sticks(14)
    np.testing.assert_allclose(expected_stick_weights(log_a, log_b).sum(-1), 1, rtol=2e-6)
    draws = sample_stick_log_weights(log_a.expand(100, 14), log_b.expand(100, 14), torch.Generator().manual_seed(0))
    np.testing.assert_allclose(draws.exp().sum(-1), 1, rtol=2e-5)


def test_all_sticks_one_is_the_first_component_and_all_zero_the_last():
    for stick, index in ((1.0, 0), (0.0, 14)):
        want = np.eye(15)[index]
        np.testing.assert_array_equal(stick_breaking_weights(torch.full((14,), stick)), want)
    large, small = torch.full((14,), 3.0), torch.full((14,), -3.0)
    assert expected_stick_weights(large, small)[0] > 0.99
    assert expected_stick_weights(small, large)[-1] > 0.99


def test_log_form_agrees_with_the_plain_form_and_reaches_further():
    v = torch.rand(6, 9, generator=torch.Generator().manual_seed(1)).double()
    got = stick_breaking_log_weights(v.log(), torch.log1p(-v)).exp()
    np.testing.assert_allclose(got, stick_breaking_weights(v), rtol=1e-12)
    tiny = stick_breaking_log_weights(torch.tensor([-300.0, -1.0]), torch.tensor([-400.0, -0.5]))
    np.testing.assert_allclose(tiny, [-300.0, -401.0, -400.5])


def test_one_component_needs_no_sticks():
    empty = torch.zeros(3, 2, 0, requires_grad=True)
    np.testing.assert_array_equal(stick_breaking_weights(empty).detach(), np.ones((3, 2, 1)))
    np.testing.assert_array_equal(expected_stick_weights(empty, empty).detach(), np.ones((3, 2, 1)))
    kl = concentration_kl(empty, empty, prior_shape=2.3, prior_rate=0.7)
    np.testing.assert_array_equal(kl.detach(), np.zeros((3, 2)))
    kl.sum().backward()  # a loss that is 0 still takes part in backward
    shape, rate = concentration_posterior(empty, empty, 2.3, 0.7)
    np.testing.assert_allclose((shape / rate).detach(), np.full((3, 2), 2.3 / 0.7), rtol=1e-6)


@pytest.mark.parametrize("num_components", [2, 15, 60])
def test_uniform_start_gives_equal_weights(num_components):
    weights = expected_stick_weights(*uniform_sticks(num_components))
    np.testing.assert_allclose(weights, 1 / num_components, rtol=2e-5)


def test_expected_weights_equal_the_mean_of_samples():
    log_a, log_b = random_sticks(5)
    draws = sample_stick_log_weights(
        log_a.expand(40_000, 5), log_b.expand(40_000, 5), torch.Generator().manual_seed(0)
    ).exp()
    deviation = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - expected_stick_weights(log_a, log_b)).abs() < 4 * deviation).all()


def test_expected_sticks_stay_between_1e_6_and_its_complement():
    """At a = e^-3, b = e^3 the mean stick is B(1 + e^3, e^3) e^3 = 1e-11."""
    low, high = torch.tensor([-3.0]), torch.tensor([8.0])
    np.testing.assert_allclose(expected_stick_log_weights(low, -low)[0], math.log(1e-6), rtol=1e-6)
    np.testing.assert_allclose(expected_stick_log_weights(2 * high, -high)[1], math.log(1e-6), rtol=1e-3)


def test_expected_weights_and_gradients_are_finite_at_the_edges_of_the_squash_range():
    corners = torch.cartesian_prod(*[torch.tensor([-3.0, 3.0])] * 4).requires_grad_()
    log_weights = expected_stick_log_weights(corners[:, :2], corners[:, 2:])
    np.testing.assert_allclose(log_weights.detach().exp().sum(-1), 1, rtol=2e-6)
    loss = log_weights.sum() + concentration_kl(corners[:, :2], corners[:, 2:]).sum()
    (gradient,) = torch.autograd.grad(loss, corners)
    assert torch.isfinite(log_weights).all()
    assert torch.isfinite(gradient).all()


def test_hierarchical_kl_has_the_specified_values():
    assert concentration_kl(*uniform_sticks(15)).item() == pytest.approx(7.709, abs=1e-3)
    assert concentration_kl(torch.zeros(14), torch.zeros(14)).item() == pytest.approx(1.430, abs=1e-3)


EDGES = torch.tensor([[-3.0, -3.0, 3.0, 3.0, 0.0, 3.0], [-3.0, 3.0, -3.0, 3.0, -3.0, 0.0]])  # of the squash range


@pytest.mark.parametrize("sticks", [random_sticks(6, seed=3), EDGES], ids=["random", "edges"])
@pytest.mark.parametrize(("prior_shape", "prior_rate"), [(1.0, 1.0), (2.5, 0.4)])
def test_collapsed_kl_is_the_explicit_sum_at_the_conjugate_posterior_and_minimal(
    expectation, prior_shape, prior_rate, sticks
):
    log_a, log_b = sticks
    neg_entropy = neg_log1m = 0.0
    for x, y in zip(log_a.tolist(), log_b.tolist(), strict=True):
        a, b = math.exp(x), math.exp(y)

        def log_pdf(log_v, _, log_s, a=a, b=b):
            return math.log(a * b) + (a - 1) * log_v + (b - 1) * log_s

        neg_entropy += expectation(a, b, log_pdf)
        neg_log1m -= expectation(a, b, lambda _, log1m_v, __: log1m_v)

    def explicit(shape, rate):
        """Σ_k E_q(α)[KL(q(v_k) || Beta(1,α))] + KL(q(α) || p(α)), integrated over α."""
        posterior, prior = stats.gamma(shape, scale=1 / rate), stats.gamma(prior_shape, scale=1 / prior_rate)

        def term(alpha):
            sticks = neg_entropy - 6 * math.log(alpha) + (alpha - 1) * neg_log1m
            return posterior.pdf(alpha) * (sticks + posterior.logpdf(alpha) - prior.logpdf(alpha))

        return integrate.quad(term, 0, posterior.ppf(1 - 1e-14), limit=200)[0]

    collapsed = infer_concentration(log_a, log_b, prior_shape, prior_rate)
    shape, rate = collapsed.shape.item(), collapsed.rate.item()
    assert shape == pytest.approx(prior_shape + 6)
    assert rate == pytest.approx(prior_rate + neg_log1m, rel=1e-4)
    assert collapsed.kl.item() == pytest.approx(explicit(shape, rate), abs=1e-3)
    for other in ((shape * 1.2, rate), (shape * 0.8, rate), (shape, rate * 1.2), (shape, rate * 0.8)):
        assert explicit(*other) > collapsed.kl.item() + 1e-3


def test_hierarchical_kl_gradient_equals_central_differences():
    log_a, log_b = (x.double().requires_grad_() for x in random_sticks(4))
    assert torch.autograd.gradcheck(concentration_kl, (log_a, log_b), atol=1e-6)


@pytest.mark.parametrize("name", ["prior_shape", "prior_rate"])
def test_a_prior_that_is_not_positive_is_named(name):
    with pytest.raises(ValueError, match=f"{name}: got 0.0, expected a positive number"):
        concentration_kl(torch.zeros(2), torch.zeros(2), **{name: 0.0})
