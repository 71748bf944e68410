"""The Gaussian control: its KL and density are torch's closed forms, and a model with it trains and dreams."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from tests.world_model.small_model import make_model, make_sample, rng, total, training_losses
from world_model import losses, monitors
from world_model.config import PriorConfig
from world_model.generative_prior import GaussianParams, GaussianPrior

GAUSSIAN = {"prior_config": {"kind": "gaussian"}}
MIXTURE_ONLY = {"pi", "mu_k", "sigma_k", "log_a", "log_b", "alpha", "responsibilities", "effective_components",
                "hierarchical_kl", "cluster_entropy"}  # fmt: skip


def reference(mean: torch.Tensor, std: torch.Tensor) -> Independent:
    return Independent(Normal(mean, std), 1)


def test_kl_density_and_samples_are_those_of_torch() -> None:
    torch.manual_seed(0)
    prior = GaussianPrior(8, 3, trunk_dim=16, std_range=(0.2, 1.5))
    params = prior(5 * torch.randn(4, 6, 8))
    mean, std = torch.randn(4, 6, 3), torch.rand(4, 6, 3) + 0.1
    expected = reference(params.mean, params.std)
    kl, responsibilities = params.kl(mean, std)
    assert responsibilities is None
    torch.testing.assert_close(kl, kl_divergence(reference(mean, std), expected))
    torch.testing.assert_close(params.log_prob(mean), expected.log_prob(mean))
    assert params.std.min() > 0.2
    assert params.std.max() < 1.5
    one = GaussianParams(params.mean[0, 0], params.std[0, 0])
    noise = prior.draw_noise((40_000, 3), mean, rng())
    for spread in (1.0, 0.5, 0.0):
        drawn = one.sample(noise, spread)
        torch.testing.assert_close(drawn.mean(0), one.mean, atol=0.03, rtol=0)  # four standard errors
        torch.testing.assert_close(drawn.std(0), spread * one.std, atol=0.03, rtol=0)


def test_balancing_splits_the_gradient_of_any_prior() -> None:
    mean, std = torch.tensor([[[2.0], [0.0]]], requires_grad=True), torch.ones(1, 2, 1)
    prior_mean = torch.zeros(1, 2, 1, requires_grad=True)
    settings = PriorConfig(kl_balance=True, free_nats=1.0, representation_free_nats=1.0)
    loss, bound, _ = losses.latent_kl(mean, std, GaussianParams(prior_mean, std), settings)
    torch.testing.assert_close(bound, torch.tensor([[2.0, 0.0]]))  # (2 - 0)^2 / 2
    torch.testing.assert_close(loss, torch.tensor([[2.0 + 0.1 * 2.0, 1.0 + 0.1 * 1.0]]))
    by_mean, by_prior = torch.autograd.grad(loss.sum(), (mean, prior_mean))
    torch.testing.assert_close(by_mean, torch.tensor([[[0.2], [0.0]]]))
    torch.testing.assert_close(by_prior, torch.tensor([[[-2.0], [0.0]]]))


def test_a_model_with_it_trains_a_step_and_dreams() -> None:
    model, sample = make_model(**GAUSSIAN), make_sample(resets=(3,))
    found, output = training_losses(model, sample, rng())
    prior, observed = output.prior, output.observed
    expected = kl_divergence(reference(observed.mean, observed.std), reference(prior.params.mean, prior.params.std))
    torch.testing.assert_close(output.losses["kl_z"], expected)
    torch.testing.assert_close(prior.bound, expected)
    total(found).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.prior.parameters())  # type: ignore[attr-defined]
    model.after_update(output, rng())
    names = set(monitors.measure(model, output, rng()))
    assert "imag_gap_kl/1" in names
    assert not any("component" in name or "mixture" in name for name in names)
    start = observed.states.map(lambda x: x.detach().flatten(0, 1))
    dream, _ = model.imagine(start, lambda state: state.features[:, :2].tanh(), 3, rng())
    assert dream.latent.shape == (12, 4, 6)
    assert dream.latent.std() > 0


def test_the_dict_view_has_its_parameters_and_nothing_of_the_mixture() -> None:
    sample = make_sample()[:2]
    mixture, gaussian = (make_model(**changes).forward_sequence(*sample) for changes in ({}, GAUSSIAN))
    assert mixture.keys() - gaussian.keys() == MIXTURE_ONLY
    assert gaussian.keys() - mixture.keys() == {"prior_mean", "prior_std"}
    assert gaussian["prior_mean"].shape == gaussian["prior_std"].shape == (2, 6, 6)


@pytest.mark.parametrize("sizes", [{"hidden_dim": 0}, {"latent_dim": -1}, {"trunk_dim": 0}])
def test_bad_sizes(sizes: dict[str, int]) -> None:
    (name,) = sizes
    with pytest.raises(ValueError, match=f"^{name}: got {sizes[name]}"):
        GaussianPrior(**({"hidden_dim": 8, "latent_dim": 3} | sizes))
    with pytest.raises(ValueError, match=r"^carry: got shape \(2, 7\), expected \[..., 8\]$"):
        GaussianPrior(8, 3)(torch.zeros(2, 7))
