import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from world_model.generative_prior import DPGMMPrior, MixtureNoise, PriorParams, concentration_kl


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return DPGMMPrior(**{"hidden_dim": 16, "latent_dim": 4, "max_components": 5, "trunk_dim": 32, **changes})


def carries(*shape, seed=1):
    return torch.rand(*shape, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def mixture(weights, means, stds, batch=()):
    """Params of a one-dimensional mixture, expanded over `batch`; it needs no sticks to be sampled."""
    weights, means, stds = (torch.tensor(x) for x in (weights, means, stds))
    sticks = torch.zeros(*batch, len(weights) - 1)
    means, stds = (x.unsqueeze(-1).expand(*batch, len(weights), 1) for x in (means, stds))
    return PriorParams(sticks, sticks, weights.log().expand(*batch, len(weights)), means, stds)


def test_shapes_and_ranges():
    params = build(unimix=0.01)(carries(2, 3))
    assert params.log_a.shape == params.log_b.shape == (2, 3, 4)
    assert params.log_weights.shape == (2, 3, 5)
    assert params.means.shape == params.stds.shape == (2, 3, 5, 4)
    np.testing.assert_allclose(params.log_weights.detach().exp().sum(-1), 1, rtol=2e-6)
    loud = build()
    with torch.no_grad():
        loud.head.weight.mul_(1e4)  # a large carry would not do: it is normalised
    extreme = loud(carries(50))
    for log_parameter in (extreme.log_a, extreme.log_b):
        assert 2.99 < log_parameter.abs().max() <= 3
    assert extreme.stds.min() >= 0.1
    assert extreme.stds.max() <= 2


@pytest.mark.parametrize("num_components", [2, 15, 80])
def test_all_components_are_alive_at_the_start(num_components):
    prior = build(max_components=num_components)
    weights = prior(carries(64)).log_weights.exp().detach() * num_components
    assert weights.min() > 0.5
    assert weights.max() < 2
    with torch.no_grad():
        prior.head.weight.zero_()  # the bias alone: exactly 1/K
    np.testing.assert_allclose(prior(carries(2)).log_weights.exp().detach(), 1 / num_components, rtol=1e-4)


def test_means_are_drift_plus_residuals_and_stds_start_near_one():
    prior = build(hidden_dim=64, latent_dim=36, max_components=15, trunk_dim=256)
    params = prior(torch.randn(200, 64, generator=torch.Generator().manual_seed(0)))
    assert 0.45 < prior.component_means.std().item() < 0.55
    residual = params.means.mean(0) - params.means.mean((0, 1))
    centred = prior.component_means - prior.component_means.mean(0)
    assert torch.nn.functional.cosine_similarity(residual.flatten(), centred.flatten(), dim=0) > 0.99
    np.testing.assert_allclose(params.stds.detach(), 1, atol=0.3)


def test_all_components_move_along_one_shared_drift():
    prior = build()
    with torch.no_grad():
        prior.head.weight[-20:].zero_()  # V
    means = prior(carries(6)).means.detach()
    assert means.std(0).max() > 1e-3  # the drift moves them
    gaps = means - means[:, :1]
    torch.testing.assert_close(gaps, (prior.component_means - prior.component_means[0]).detach().expand(6, 5, 4))


def test_unimix_is_a_floor_applied_once():
    plain, mixed = build(), build(unimix=0.1)
    carry = carries(6) * 30
    want = 0.9 * plain(carry).log_weights.exp() + 0.1 / 5
    torch.testing.assert_close(mixed(carry).log_weights.exp(), want)


def test_one_component_is_a_gaussian_without_sticks():
    prior = build(max_components=1, unimix=0.01)
    params = prior(carries(3))
    assert params.log_a.shape == (3, 0)
    np.testing.assert_array_equal(params.log_weights.detach(), np.zeros((3, 1)))
    z = torch.zeros(3, 4)
    want = torch.distributions.Normal(params.means[:, 0], params.stds[:, 0]).log_prob(z).sum(-1)
    torch.testing.assert_close(prior.log_prob(params, z), want)
    np.testing.assert_array_equal(prior.infer_concentration(params).kl.detach(), np.zeros(3))
    torch.testing.assert_close(prior.mode(params), params.means[:, 0])


def test_samples_follow_the_mixture_cdf_and_leave_the_gap_between_modes_empty():
    weights, means, stds = [0.2, 0.5, 0.3], [-8.0, 0.0, 9.0], [0.5, 1.0, 0.3]
    params = mixture(weights, means, stds, batch=(20_000,))
    for straight_through in (False, True):
        z = DPGMMPrior.sample(params, torch.Generator().manual_seed(0), straight_through).squeeze(-1).numpy()
        cdf = lambda x: sum(w * stats.norm.cdf(x, m, s) for w, m, s in zip(weights, means, stds, strict=True))  # noqa: E731
        assert stats.kstest(z, cdf).pvalue > 1e-3
        # 5.3 deviations from both neighbours on either side: 1e-7 of the mass, but where an average would lie
        assert not ((z > 5.3) & (z < 7.2)).any()
        assert not ((z > -5.3) & (z < -5.2)).any()


def test_a_component_of_weight_zero_is_never_drawn():
    params = mixture([0.0, 0.5, 0.0, 0.5, 0.0], [9.0, -1.0, 9.0, 1.0, 9.0], [1e-3] * 5, batch=(5000,))
    uniform = torch.linspace(0, 1 - 2**-24, 5000)  # both ends included
    z = DPGMMPrior.sample(params, noise=MixtureNoise(uniform, torch.zeros(5000, 1)))
    assert set(z.flatten().tolist()) == {-1.0, 1.0}


def test_sample_is_a_function_of_params_and_noise():
    prior = build()
    params = prior(carries(7))
    noise = prior.draw_noise((7, 4), params.means, torch.Generator().manual_seed(3))
    assert noise.uniform.shape == (7,)
    assert noise.normal.shape == (7, 4)
    drawn = prior.sample(params, torch.Generator().manual_seed(3))
    torch.testing.assert_close(prior.sample(params, noise=noise), drawn, rtol=0, atol=0)
    torch.testing.assert_close(prior.sample(params, straight_through=True, noise=noise), drawn, rtol=0, atol=0)


def test_straight_through_gradient_by_hand():
    log_weights = torch.tensor([0.2, 0.8]).log().requires_grad_()
    means, stds = (torch.tensor(x).unsqueeze(-1).requires_grad_() for x in ([1.0, 5.0], [0.5, 2.0]))
    params = PriorParams(torch.zeros(1), torch.zeros(1), log_weights, means, stds)
    noise = MixtureNoise(torch.tensor(0.6), torch.tensor([0.3]))  # picks component 1: z = 5 + 2 * 0.3
    z = DPGMMPrior.sample(params, straight_through=True, noise=noise)
    assert z.item() == pytest.approx(5.6)
    by_weights, by_means, by_stds = torch.autograd.grad(z.sum(), (log_weights, means, stds))
    np.testing.assert_allclose(by_weights, [0.2 * 1.15, 0.8 * 5.6], rtol=1e-6)  # w_k (μ_k + σ_k ε)
    np.testing.assert_allclose(by_means.squeeze(-1), [0.0, 1.0])
    np.testing.assert_allclose(by_stds.squeeze(-1), [0.0, 0.3])
    plain = DPGMMPrior.sample(params, noise=noise)
    assert torch.autograd.grad(plain.sum(), log_weights, allow_unused=True) == (None,)


def test_mode_is_a_component_mean():
    params = mixture([0.3, 0.45, 0.25], [-5.0, 1.0, 6.0], [1.0, 1.0, 1.0], batch=(2,))
    np.testing.assert_array_equal(DPGMMPrior.mode(params), [[1.0], [1.0]])


def test_log_prob_matches_scipy():
    prior = build()
    params = prior(carries(3))
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    got = prior.log_prob(params, z).detach()
    log_weights, means, stds = (x.detach().double().numpy() for x in params[2:])
    by_component = stats.norm.logpdf(z[:, None].numpy(), means, stds).sum(-1)
    np.testing.assert_allclose(got, special.logsumexp(log_weights + by_component, axis=-1), rtol=1e-5)


def test_concentration_uses_the_priors_own_gamma():
    prior = build(prior_shape=2.0, prior_rate=0.5)
    params = prior(carries(3))
    shape, rate = prior.concentration(params)
    np.testing.assert_allclose(shape, 6.0)
    torch.testing.assert_close(prior.alpha(params), shape / rate)
    inferred = prior.infer_concentration(params)
    torch.testing.assert_close(inferred.kl, concentration_kl(params.log_a, params.log_b, 2.0, 0.5))
    torch.testing.assert_close(inferred.rate, rate)


def test_every_parameter_gets_a_gradient():
    prior = build(unimix=0.01)
    params = prior(carries(8))
    loss = -prior.log_prob(params, torch.ones(8, 4)).sum() + prior.infer_concentration(params).kl.sum()
    loss.backward()
    for name, parameter in prior.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_parameters_are_float32_under_autocast():
    prior = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        params = prior(carries(3))
    assert {x.dtype for x in params} == {torch.float32}
    for got, want in zip(params, prior(carries(3)), strict=True):
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)  # bfloat16 has 8 bits


def dead_case(prior, num_updates):
    """Component 2 is never responsible for anything, for so many updates."""
    shares = torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25]).expand(3, 4, 5)
    means, carry = 7 + torch.arange(48.0).view(3, 4, 4), carries(3, 4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_updates):
        prior.update_usage(shares, means, carry, generator)
    return means.view(12, 4), carry.view(12, 16)


def test_a_dead_component_is_moved_to_a_recent_posterior_mean():
    prior = build()
    before = prior.component_means.detach().clone()
    dead_case(prior, 1400)  # the average falls below 1e-3 after 527 updates, patience is 1000
    torch.testing.assert_close(prior.component_means, before, rtol=0, atol=0)
    means, carry = dead_case(prior, 200)
    after = prior.component_means.detach()
    alive = [0, 1, 3, 4]
    torch.testing.assert_close(after[alive], before[alive], rtol=0, atol=0)
    with torch.no_grad():
        prior.head.weight[-20:].zero_()  # without V, its mean lies on one of the posterior means
    distance = (prior(carry).means[:, 2] - means).norm(dim=-1)
    assert distance.min() < 1e-4
    moved = prior.component_means.detach().clone()
    dead_case(prior, 1000)  # it starts anew, with a full patience
    torch.testing.assert_close(prior.component_means.detach(), moved, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_batch_leaves_usage_and_components_alone(bad):
    prior = build()
    dead_case(prior, 1526)
    assert prior.dead_updates[2] == 999  # the next update would move component 2
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    means, carry, shares = torch.full((3, 4), bad), carries(3), torch.full((3, 5), 0.2)
    shares[1] = math.nan  # what a broken posterior mean makes of them
    for _ in range(3):
        prior.update_usage(shares, means, carry, torch.Generator().manual_seed(0))
    for name, value in prior.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_usage_changes_nothing_in_eval_mode():
    prior = build().eval()
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    dead_case(prior, 1)
    for name, value in prior.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_dim", 0),
        ("latent_dim", -1),
        ("max_components", 0),
        ("trunk_dim", 0),
        ("unimix", 1.0),
        ("std_range", (0.0, 1.0)),
        ("prior_shape", 0.0),
        ("prior_rate", -2.0),
    ],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: got .*, expected .*$"):
        build(**{name: value})


def test_a_carry_of_another_width_is_named():
    with pytest.raises(ValueError, match=r"^carry: got shape \(2, 15\), expected \[\.\.\., 16\]$"):
        build()(torch.zeros(2, 15))
