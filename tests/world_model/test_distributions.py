import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from world_model.distributions import (
    at_least_float32,
    diagonal_gaussian_kl,
    full_precision,
    gaussian_log_prob,
    symexp,
    symlog,
    twohot_bins,
    twohot_log_prob,
    twohot_mean,
)

STEP = 40 / 254


def edge(index):
    """The value of bin `index`, counted from the middle one."""
    return math.copysign(math.expm1(abs(index) * STEP), index)


def test_symlog_by_hand_and_back():
    x = torch.tensor([-1e6, -1.0, -1e-4, 0.0, 1e-4, math.e - 1, 1e6])
    want = [-math.log1p(1e6), -math.log(2), -math.log1p(1e-4), 0, math.log1p(1e-4), 1, math.log1p(1e6)]
    np.testing.assert_allclose(symlog(x), want, rtol=1e-6)
    np.testing.assert_allclose(symexp(symlog(x)), x, rtol=1e-5)


def test_bins_are_symmetric_and_equally_spaced():
    bins = twohot_bins()
    assert bins.shape == (255,)
    assert (bins[0], bins[127], bins[-1]) == (-20, 0, 20)
    np.testing.assert_allclose(bins.diff(), STEP, atol=2e-6)
    np.testing.assert_array_equal(bins, -bins.flip(0))


@pytest.mark.parametrize(("num_bins", "low", "high", "name"), [(1, -1, 1, "num_bins"), (5, 1, 1, "low, high")])
def test_impossible_bins_are_named(num_bins, low, high, name):
    with pytest.raises(ValueError, match=f"{name}: got"):
        twohot_bins(num_bins, low, high)


@pytest.mark.parametrize(
    ("value", "below", "share"),
    [
        (0.0, 0, 0.0),
        (0.25 * edge(1), 0, 0.25),
        (-0.25 * edge(1), -1, 0.75),
        (0.4 * edge(20) + 0.6 * edge(21), 20, 0.6),
        (1e30, 126, 1.0),
        (-1e30, -127, 0.0),
    ],
)
def test_twohot_log_prob_by_hand(value, below, share):
    logits = torch.randn(255, generator=torch.Generator().manual_seed(0))
    log_probs = logits.double().log_softmax(-1)
    want = (1 - share) * log_probs[127 + below] + share * log_probs[128 + below]
    assert twohot_log_prob(logits, torch.tensor(value)).item() == pytest.approx(want.item(), abs=1e-4)


def test_the_best_logits_for_noisy_targets_give_their_mean():
    # Two targets in different bins, each half of the time: the optimum of the likelihood is unbiased.
    targets = torch.tensor([0.3, 12.0])
    logits = torch.zeros(255, requires_grad=True)
    # At the optimum softmax(logits) is the mean two-hot target, which is minus the gradient plus the softmax
    (gradient,) = torch.autograd.grad(-twohot_log_prob(logits.expand(2, 255), targets).mean(), logits)
    mean_target = (torch.full((255,), 1 / 255) - gradient).clamp(min=0)
    assert (mean_target > 1e-6).sum() == 4
    best = (mean_target + 1e-30).log()
    assert twohot_mean(best).item() == pytest.approx(6.15, rel=1e-4)


def test_twohot_mean_of_symmetric_logits_is_exactly_zero():
    half = torch.randn(3, 127, generator=torch.Generator().manual_seed(0))
    symmetric = torch.cat([half, torch.zeros(3, 1), half.flip(-1)], -1)
    np.testing.assert_array_equal(twohot_mean(torch.zeros(2, 255)), [0, 0])
    np.testing.assert_array_equal(twohot_mean(torch.zeros(2, 254)), [0, 0])
    np.testing.assert_array_equal(twohot_mean(symmetric), [0, 0, 0])


def test_twohot_mean_by_hand():
    logits = torch.full((255,), -torch.inf)
    logits[127 + 30], logits[127 - 10] = math.log(0.3), math.log(0.7)
    assert twohot_mean(logits).item() == pytest.approx(0.3 * edge(30) + 0.7 * edge(-10), rel=1e-5)


def test_twohot_takes_other_bins_and_names_a_wrong_shape():
    logits = torch.tensor([0.0, -torch.inf, 0.0])  # bins at symlog -1, 1, 3
    want = (-(math.e - 1) + math.e**3 - 1) / 2
    assert twohot_mean(logits, -1.0, 3.0).item() == pytest.approx(want, rel=1e-6)
    middle = twohot_log_prob(torch.zeros(3), torch.tensor(math.e - 1), -1.0, 3.0)
    assert middle.item() == pytest.approx(-math.log(3), rel=1e-6)
    with pytest.raises(ValueError, match="value: got shape"):
        twohot_log_prob(torch.zeros(4, 255), torch.zeros(4, 1))


def test_gaussian_log_prob_matches_scipy():
    generator = torch.Generator().manual_seed(0)
    value, mean = torch.randn(2, 3, 5, generator=generator)
    std = 0.1 + torch.rand(3, 5, generator=generator)
    want = stats.norm.logpdf(value.double(), mean.double(), std.double()).sum(-1)
    np.testing.assert_allclose(gaussian_log_prob(value, mean, std), want, rtol=1e-5)


def test_gaussian_kl_matches_integration_and_adds_up_over_dimensions():
    mean, std = torch.tensor([0.3, -1.0]), torch.tensor([0.7, 1.5])
    other_mean, other_std = torch.tensor([1.0, 0.5]), torch.tensor([1.2, 0.4])

    def kl(i):
        q, p = stats.norm(mean[i].item(), std[i].item()), stats.norm(other_mean[i].item(), other_std[i].item())
        low, high = q.ppf(1e-16), q.ppf(1 - 1e-16)
        return integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), low, high)[0]

    got = diagonal_gaussian_kl(mean, std, other_mean, other_std)
    assert got.item() == pytest.approx(kl(0) + kl(1), rel=1e-5)
    assert diagonal_gaussian_kl(mean, std, mean, std).item() == 0


def test_full_precision_switches_autocast_off_and_raises_halves():
    @full_precision
    def product(left, right):
        return left @ right

    a = torch.eye(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        assert product(a, right=a).dtype == torch.float32
        assert product(a.bfloat16(), a.bfloat16()).dtype == torch.float32
    assert product(a.double(), a.double()).dtype == torch.float64
    assert at_least_float32(a.long()).dtype == torch.int64


def test_meta_tensors_pass():
    assert symlog(torch.zeros(3, device="meta")).shape == (3,)
