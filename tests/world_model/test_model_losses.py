"""The pure loss functions against hand calculations and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from world_model import losses
from world_model.config import HeadConfig, PriorConfig
from world_model.generative_prior import PriorParams
from world_model.heads import RewardHead
from world_model.trunk import ConvTrunk, SlowTrunk


def test_over_valid_keeps_the_mean_of_the_valid_entries() -> None:
    loss = torch.tensor([[1.0, 2.0], [3.0, 100.0]])
    valid = torch.tensor([[True, False], [True, False]])
    result = losses.over_valid(loss, valid)
    assert torch.equal(result, torch.tensor([[2.0, 0.0], [6.0, 0.0]]))
    assert result.mean() == 2.0
    assert torch.equal(losses.over_valid(loss, torch.zeros(2, 2, dtype=torch.bool)), torch.zeros(2, 2))


def test_spread_keeps_the_mean_of_the_chosen_frames() -> None:
    result = losses.spread(torch.tensor([3.0, 5.0]), torch.tensor([4, 1]), torch.Size([2, 3]))
    assert torch.equal(result, torch.tensor([[0.0, 15.0, 0.0], [0.0, 9.0, 0.0]]))
    assert result.mean() == 4.0


@pytest.mark.parametrize(("fraction", "count"), [(0.25, 3), (1.0, 12), (0.01, 1)])
def test_chosen_frames_differ_and_are_as_many_as_asked_for(fraction: float, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = losses.choose_frames(torch.Size([3, 4]), fraction, generator, torch.device("cpu"))
    assert len(set(chosen.tolist())) == count == len(chosen)
    assert set(chosen.tolist()) <= set(range(12))


def test_squared_error_is_a_sum_over_pixels() -> None:
    target = torch.zeros(2, 3, 64, 64)
    prediction = torch.stack([torch.full((3, 64, 64), 0.5), torch.zeros(3, 64, 64)])
    assert torch.equal(losses.squared_error(target, prediction), torch.tensor([0.25 * 3 * 64 * 64, 0.0]))


def test_continue_targets_are_one_at_time_limits() -> None:
    """A time limit is no terminal: p(continue) = 0.8 costs -ln 0.8 there and -ln 0.2 at a real end."""
    logits = torch.full((1, 2), math.log(0.8 / 0.2))
    is_terminal = torch.tensor([[False, True]])
    expected = torch.tensor([[-math.log(0.8), -math.log(0.2)]])
    torch.testing.assert_close(losses.continue_nll(logits, is_terminal), expected)


def test_next_token_loss_skips_resets_and_the_last_index() -> None:
    """One sequence of four frames, two codes, the third frame a reset: pairs (0, 1) and (2, 3) count."""
    indices = torch.zeros(1, 4, 8, 8, dtype=torch.long)
    indices[0, 1, :4] = 1  # half of the cells of frame 1
    indices[0, 3] = 1
    logits = torch.zeros(1, 4, 64, 2)
    logits[0, 0, :, 1] = math.log(3)  # p(code 1) = 3/4 for frame 1
    logits[0, 2, :, 1] = math.log(4)  # 4/5 for frame 3
    logits[0, 1], logits[0, 3] = 100.0, -100.0  # must not count
    logits[0, 1, :, 0] = -100.0
    is_first = torch.tensor([[True, False, True, False]])
    first = -0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)
    third = -math.log(4 / 5)
    expected = torch.tensor([[2 * first, 0.0, 2 * third, 0.0]])  # two of four entries are valid
    found = losses.next_token_loss(logits.flatten(0, 1), indices, is_first, torch.arange(4))
    torch.testing.assert_close(found, expected)
    # two of the frames, in any order: the one that counts stands for both, scaled by 4/2 for the frames left out
    found = losses.next_token_loss(logits[0, [3, 2]], indices, is_first, torch.tensor([3, 2]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 2 * 2 * third, 0.0]]))


def test_next_token_loss_of_one_frame_is_zero() -> None:
    indices, is_first = torch.zeros(2, 1, 8, 8, dtype=torch.long), torch.ones(2, 1, dtype=torch.bool)
    loss = losses.next_token_loss(torch.randn(2, 64, 5), indices, is_first, torch.arange(2))
    assert torch.equal(loss, torch.zeros(2, 1))


def test_context_nll_is_half_the_squared_distance_and_leaves_the_target_alone() -> None:
    context = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
    predicted = torch.tensor([[[0.0, 4.0]]], requires_grad=True)
    loss = losses.context_nll(context, predicted)
    assert loss.item() == 0.5 * (1 + 4)
    loss.sum().backward()
    assert context.grad is None
    assert torch.equal(predicted.grad, torch.tensor([[[-1.0, 2.0]]]))  # type: ignore[arg-type]


def test_gram_loss_by_hand() -> None:
    """Two cells: parallel in one, orthogonal in the other, so two of four cosines differ by 1."""
    parallel = torch.tensor([[[1.0, 2.0], [1.0, 2.0]]]).view(1, 2, 1, 2)  # columns (1, 1) and (2, 2)
    orthogonal = torch.tensor([[[3.0, 0.0], [0.0, 0.5]]]).view(1, 2, 1, 2)
    torch.testing.assert_close(losses.gram_loss(parallel, orthogonal), torch.tensor([0.5]))
    torch.testing.assert_close(losses.gram_loss(parallel, 7 * parallel), torch.tensor([0.0]))  # lengths do not count


def test_gram_loss_of_equal_trunks_is_zero_and_covers_the_share() -> None:
    torch.manual_seed(0)
    trunk = ConvTrunk(8)
    teacher, inputs = SlowTrunk(trunk, fraction=0.5), torch.randn(2, 4, 3, 64, 64)
    features = trunk(inputs.flatten(0, 1)).unflatten(0, (2, 4))
    assert teacher.loss(features, inputs).abs().max() < 1e-8  # squares of float32 rounding
    moved = teacher.loss(torch.randn_like(features), inputs)
    assert (moved > 0).sum() == 4


def gaussian(mean: Tensor, std: Tensor) -> PriorParams:
    """One component with all the weight."""
    none = mean.new_zeros(*mean.shape[:-1], 0)
    return PriorParams(none, none, mean.new_zeros(*mean.shape[:-1], 1), mean.unsqueeze(-2), std.unsqueeze(-2))


def test_balanced_kl_splits_the_gradient_and_clips_each_entry() -> None:
    mean, std = torch.tensor([[[2.0], [0.0]]], requires_grad=True), torch.ones(1, 2, 1)
    prior_mean = torch.zeros(1, 2, 1, requires_grad=True)
    settings = PriorConfig(kl_balance=True, free_nats=1.0, representation_free_nats=1.0)
    loss, bound, _ = losses.latent_kl(mean, std, gaussian(prior_mean, std), settings)
    torch.testing.assert_close(bound, torch.tensor([[2.0, 0.0]]))  # (2 - 0)^2 / 2
    torch.testing.assert_close(loss, torch.tensor([[2.0 + 0.1 * 2.0, 1.0 + 0.1 * 1.0]]))
    by_mean, by_prior = torch.autograd.grad(loss.sum(), (mean, prior_mean))
    torch.testing.assert_close(by_mean, torch.tensor([[[0.2], [0.0]]]))
    torch.testing.assert_close(by_prior, torch.tensor([[[-2.0], [0.0]]]))


def test_a_linear_gaussian_model_reaches_its_log_likelihood_at_the_exact_posterior() -> None:
    """x = W z + e, W with orthogonal columns, e of variance ½: recon + KL + constant = -ln p(x), and more elsewhere."""
    random, latent_dim, pixels = np.random.default_rng(0), 3, (3, 2, 2)
    size = math.prod(pixels)
    columns = np.linalg.qr(random.normal(size=(size, latent_dim)))[0] * [0.7, 1.5, 2.0]
    prior_mean, prior_std = random.normal(size=latent_dim), np.array([0.5, 1.0, 1.6])
    x = random.normal(size=size)
    marginal = multivariate_normal(columns @ prior_mean, 0.5 * np.eye(size) + (columns * prior_std**2) @ columns.T)
    precision = prior_std**-2 + 2 * (columns**2).sum(0)
    exact_mean = (prior_mean / prior_std**2 + 2 * columns.T @ x) / precision

    def negative_elbo(mean: np.ndarray, std: np.ndarray) -> float:
        # A quadratic's expectation under N(m, diag s²) is its average over the 2 D points m ± sqrt(D) s_d e_d.
        steps = math.sqrt(latent_dim) * np.diag(std)
        points = torch.tensor(np.concatenate([mean + steps, mean - steps]))
        decoded = (points @ torch.tensor(columns).T).view(-1, *pixels)
        recon = losses.squared_error(torch.tensor(x).view(pixels), decoded).mean()
        prior = gaussian(torch.tensor(prior_mean), torch.tensor(prior_std))
        kl, _, _ = losses.latent_kl(torch.tensor(mean), torch.tensor(std), prior, PriorConfig())
        return float(recon + kl) + 0.5 * size * math.log(math.pi)  # ln of the variance-½ Gaussian's constant

    best = negative_elbo(exact_mean, precision**-0.5)
    assert best == pytest.approx(-marginal.logpdf(x), rel=1e-10)
    for shift, scale in ((0.1, 1.0), (0.0, 1.2), (-0.3, 0.8)):
        assert negative_elbo(exact_mean + shift, scale * precision**-0.5) > best + 1e-3


def test_reward_loss_is_finite_at_extreme_rewards() -> None:
    torch.manual_seed(0)
    reward_head = RewardHead(4, HeadConfig(hidden_dim=8, num_layers=1))
    rewards = torch.tensor([1e4, -1e4, 0.0, 1e12])
    assert reward_head.nll(torch.randn(4, 4), rewards).isfinite().all()
