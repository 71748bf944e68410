import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from world_model.generative_prior import (
    mixture_kl_and_responsibilities,
    mixture_kl_lower_bound,
    mixture_kl_monte_carlo,
    mixture_kl_upper_bound,
    responsibilities,
)


def random_case(seed, num_components=4, dim=1):
    """mean, std, log_weights, means, stds in float64."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    log_weights = torch.log_softmax(uniform(-2, 2, num_components), -1)
    means, stds = uniform(-3, 3, num_components, dim), uniform(0.2, 2, num_components, dim)
    return uniform(-2, 2, dim), uniform(0.1, 1.5, dim), log_weights, means, stds


def exact_kl(mean, std, log_weights, means, stds):
    """The KL of one-dimensional arguments by quadrature."""
    q = stats.norm(mean.item(), std.item())
    weights, centres, widths = log_weights.exp().numpy(), means[:, 0].numpy(), stds[:, 0].numpy()

    def term(z):
        return q.pdf(z) * (q.logpdf(z) - np.log(np.sum(weights * stats.norm.pdf(z, centres, widths))))

    return integrate.quad(term, mean.item() - 9 * std.item(), mean.item() + 9 * std.item(), limit=200)[0]


def gaussian_kl(mean, std, other_mean, other_std):
    q, p = torch.distributions.Normal(mean, std), torch.distributions.Normal(other_mean, other_std)
    return torch.distributions.kl_divergence(q, p).sum(-1)


@pytest.mark.parametrize("seed", range(12))
def test_exact_kl_lies_between_the_bounds(seed):
    case = random_case(seed)
    exact, upper = exact_kl(*case), mixture_kl_upper_bound(*case).item()
    assert mixture_kl_lower_bound(*case).item() <= exact + 1e-9
    assert -1e-12 <= exact <= upper + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_monte_carlo_is_unbiased(seed):
    case = random_case(seed)
    generator = torch.Generator().manual_seed(seed)
    batch = [x.expand(4000, *x.shape) for x in case]
    draws = mixture_kl_monte_carlo(*batch, num_samples=5, generator=generator)
    assert draws.shape == (4000,)
    assert abs(draws.mean().item() - exact_kl(*case)) < 4 * draws.std().item() / 4000**0.5


@pytest.mark.parametrize("num_components", [1, 5])
def test_identical_components_give_the_gaussian_kl(num_components):
    mean, std, _, means, stds = random_case(0, num_components, dim=6)
    means, stds = means[:1].expand(num_components, 6), stds[:1].expand(num_components, 6)
    log_weights = torch.log_softmax(torch.arange(num_components).double(), -1)
    want = gaussian_kl(mean, std, means[0], stds[0])
    torch.testing.assert_close(mixture_kl_upper_bound(mean, std, log_weights, means, stds), want)


def test_upper_bound_is_below_the_simpler_bounds():
    mean, std, log_weights, means, stds = random_case(1, 7, 5)
    component_kl = gaussian_kl(mean, std, means, stds)
    upper = mixture_kl_upper_bound(mean, std, log_weights, means, stds)
    assert upper <= (log_weights.exp() * component_kl).sum() + 1e-12
    assert (upper <= component_kl - log_weights + 1e-12).all()


def test_responsibilities_are_the_posterior_over_components():
    mean, std, log_weights, means, stds = random_case(2, 6, 3)
    unnormalised = log_weights.exp() * torch.exp(-gaussian_kl(mean, std, means, stds))
    want = unnormalised / unnormalised.sum()
    torch.testing.assert_close(responsibilities(mean, std, log_weights, means, stds), want)
    upper, both = mixture_kl_and_responsibilities(mean, std, log_weights, means, stds)
    torch.testing.assert_close(both, want)
    torch.testing.assert_close(upper, -unnormalised.sum().log())


def test_bounds_do_not_depend_on_the_order_of_components():
    mean, std, log_weights, means, stds = random_case(3, 6, 3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for bound in (mixture_kl_upper_bound, mixture_kl_lower_bound):
        permuted = bound(mean, std, log_weights[order], means[order], stds[order])
        torch.testing.assert_close(permuted, bound(mean, std, log_weights, means, stds))


def test_a_zero_weight_counts_as_an_absent_component_without_nan():
    mean, std, log_weights, means, stds = random_case(4, 4, 3)
    masked = log_weights.clone()
    masked[2] = -torch.inf
    masked.requires_grad_()
    means.requires_grad_()
    kept = [0, 1, 3]
    assert responsibilities(mean, std, masked, means, stds)[2] == 0
    noise = [torch.Generator().manual_seed(0) for _ in range(2)]
    drawn = mixture_kl_monte_carlo(mean, std, masked, means, stds, 8, noise[0])
    absent = mixture_kl_monte_carlo(mean, std, masked[kept], means[kept], stds[kept], 8, noise[1])
    torch.testing.assert_close(drawn, absent)
    for bound in (mixture_kl_upper_bound, mixture_kl_lower_bound):
        value = bound(mean, std, masked, means, stds)
        torch.testing.assert_close(value, bound(mean, std, masked[kept], means[kept], stds[kept]))
        for gradient in torch.autograd.grad(value, (masked, means)):
            assert torch.isfinite(gradient).all()
            assert (gradient[2] == 0).all()


def test_components_far_away_give_a_large_and_finite_kl():
    """No overflow where a narrow posterior lies far from all components, and the nearest one decides."""
    mean, std = torch.tensor([300.0, -300.0]), torch.tensor([0.05, 0.05])
    means = torch.tensor([[0.0, 0.0], [-300.0, 300.0]], requires_grad=True)
    stds, log_weights = torch.full((2, 2), 0.1), torch.tensor([0.5, 0.5]).log()
    upper, shares = mixture_kl_and_responsibilities(mean, std, log_weights, means, stds)
    nearest = gaussian_kl(mean.double(), std.double(), means[0].detach().double(), stds[0].double())
    assert upper.item() == pytest.approx(nearest.item() + math.log(2), rel=1e-5)
    np.testing.assert_array_equal(shares.detach(), [1.0, 0.0])
    (gradient,) = torch.autograd.grad(upper, means)
    np.testing.assert_allclose(gradient, [[-300 / 0.01, 300 / 0.01], [0, 0]], rtol=1e-5)


def test_gradients_equal_central_differences():
    case = tuple(x.requires_grad_() for x in random_case(5, 3, 2))
    for bound in (mixture_kl_upper_bound, mixture_kl_lower_bound):
        assert torch.autograd.gradcheck(bound, case, atol=1e-6)


def test_leading_axes_are_kept():
    mean, std, log_weights, means, stds = (x.expand(2, 3, *x.shape) for x in random_case(0, 4, 5))
    upper, shares = mixture_kl_and_responsibilities(mean, std, log_weights, means, stds)
    assert upper.shape == (2, 3)
    assert shares.shape == (2, 3, 4)
    assert mixture_kl_lower_bound(mean, std, log_weights, means, stds).shape == (2, 3)
    assert mixture_kl_monte_carlo(mean, std, log_weights, means, stds).shape == (2, 3)


def test_wrong_arguments_are_named():
    mean, std, log_weights, means, stds = random_case(0, 4, 5)
    with pytest.raises(ValueError, match="means: got shape"):
        mixture_kl_upper_bound(mean, std, log_weights, means[:, :3], stds)
    with pytest.raises(ValueError, match="stds: got shape"):
        mixture_kl_lower_bound(mean, std, log_weights, means, stds[:2])
    with pytest.raises(ValueError, match="std: got shape"):
        mixture_kl_upper_bound(mean, std[:2], log_weights, means, stds)
    with pytest.raises(ValueError, match="num_samples: got 0"):
        mixture_kl_monte_carlo(mean, std, log_weights, means, stds, num_samples=0)
