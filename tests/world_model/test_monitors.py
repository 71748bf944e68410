"""Health monitors: hand-made cases with known figures, absent with their pillar, and nothing moves while they look."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch.utils._python_dispatch import TorchDispatchMode

from tests.world_model.small_model import SWITCHES, make_model, make_sample, rng
from world_model import monitors
from world_model.attention_schema import AttentionOutput
from world_model.generative_prior import PriorParams, mixture_monitors
from world_model.state import Observed, State, stack_states

COUNTS = ("entropy", "inverse_simpson", "coverage")
MIXTURE = {f"components_{kind}/{count}" for kind in ("used", "open") for count in COUNTS} | {
    "component_mutual_information", "component_conditional_entropy", "mixture_gap"}  # fmt: skip
VQ = {"vq_ema_perplexity", "vq_dead_share"}
ATTENTION = {"attention_mass_max", "attention_movement_ratio"}
REWARD = {"reward_error", "reward_error_top"}
GAPS = {f"imag_gap_{name}/{k}" for name in ("carry", "kl", "reward") for k in (1, 5)}  # chunks of 6 have no 15


def measured(model, sample, rewards=True):
    """Output of a training forward and its monitors."""
    output = model.train()(*(sample if rewards else sample._replace(rewards=None)), generator=rng())
    return output, monitors.measure(model, output, rng(1))


@pytest.mark.parametrize(
    ("switch", "missing"),
    [("all on", set()), ("attention off", ATTENTION), ("perceiver off", VQ | {"context_ratio"}),
     ("no context", {"context_ratio"}), ("Gaussian prior", set()), ("two LSTM layers", set()),
     ("all off", ATTENTION | VQ | {"context_ratio"})],
)  # fmt: skip
def test_finite_scalars_and_none_of_a_pillar_that_is_off(switch, missing):
    _, found = measured(make_model(**SWITCHES[switch]), make_sample())
    assert set(found) == (MIXTURE | VQ | {"context_ratio"} | ATTENTION | REWARD | GAPS) - missing
    for name, value in found.items():
        assert value.shape == (), name
        assert torch.isfinite(value), name
        assert not value.requires_grad, name


def test_without_rewards_nothing_is_said_of_them():
    found = set(measured(make_model(), make_sample(), rewards=False)[1])
    assert not any("reward" in name for name in found)
    assert "imag_gap_carry/5" in found


def test_looking_changes_nothing_and_the_same_noise_gives_the_same_figures():
    model, sample = make_model().train(), make_sample()
    output = model(*sample, generator=rng())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    left, right = (monitors.measure(model, output, rng(1)) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert output.losses["recon_loss"].requires_grad


class NoWaiting(TorchDispatchMode):
    """Fails on what would wait for a device: item(), bool() and float() of tensors, and shapes that depend on data."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "unique"}, name
        return function(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device():
    model, sample = make_model().train(), make_sample(resets=(3,))
    output = model(*sample, generator=rng())
    with NoWaiting():
        monitors.measure(model, output, rng())
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            output.losses["recon_loss"].mean().item()


# ---------------------------------------------------------------- pillar 2


def mixture_figures(rows, responsibilities, weights, means, stds):
    """Its monitors of q = N(0, 1) in one dimension under the same mixture in every row."""
    components = len(means)
    params = PriorParams(
        torch.zeros(0),
        torch.zeros(0),
        torch.tensor(weights).log().expand(1, rows, components),
        torch.tensor(means).view(components, 1).expand(1, rows, components, 1),
        torch.tensor(stds).view(components, 1).expand(1, rows, components, 1),
    )
    mean = torch.zeros(1, rows, 1)
    return mixture_monitors(params, mean, torch.ones_like(mean), responsibilities, rng())


def test_components_that_the_data_use_and_those_that_the_gate_keeps_open():
    """Two of four components are used, each row by one; the gate keeps all four open equally."""
    responsibilities = torch.eye(4)[[0, 2] * 50].unsqueeze(0)
    found = mixture_figures(100, responsibilities, [0.25] * 4, [0.0] * 4, [1.0] * 4)
    for count in COUNTS:
        assert found[f"components_used/{count}"] == pytest.approx(2, rel=1e-5)
        assert found[f"components_open/{count}"] == pytest.approx(4, rel=1e-5)
    assert found["component_mutual_information"] == pytest.approx(math.log(2), rel=1e-5)
    assert found["component_conditional_entropy"] == pytest.approx(0, abs=1e-6)


def test_interchangeable_components_carry_no_information():
    found = mixture_figures(10, torch.full((1, 10, 4), 0.25), [0.25] * 4, [0.0] * 4, [2.0] * 4)
    assert found["components_used/entropy"] == pytest.approx(4, rel=1e-5)
    assert found["component_mutual_information"] == pytest.approx(0, abs=1e-5)


def test_mixture_gap_is_the_slack_of_the_bound_by_quadrature():
    """q = N(0, 1), mixture of N(±c, 1): both component KLs are c²/2, so J = c²/2; the KL itself by quadrature."""
    c, rows = 1.5, 20_000
    ratio = quad(
        lambda z: norm.pdf(z) * (norm.logpdf(z) - math.log(0.5 * norm.pdf(z, c) + 0.5 * norm.pdf(z, -c))), -9, 9
    )[0]
    found = mixture_figures(rows, torch.full((1, rows, 2), 0.5), [0.5, 0.5], [c, -c], [1.0, 1.0])
    expected = 1 - ratio / (c**2 / 2)
    assert expected > 0.3
    assert found["mixture_gap"] == pytest.approx(expected, abs=0.01)
    alone = mixture_figures(rows, torch.ones(1, rows, 1), [1.0], [c], [1.0])
    assert alone["mixture_gap"] == pytest.approx(0, abs=0.02)


# ---------------------------------------------------------------- pillars 1 and 4, reward head


def test_dead_codes_are_counted_by_their_share():
    model, sample = make_model().train(), make_sample()
    output = model(*sample, generator=rng())
    quantizer = model.perceiver.tokenizer.quantizer
    quantizer.counts.copy_(torch.tensor([1.0] * 12 + [1e-4] * 4))  # 16 codes, 4 of them below 3 % of the mean
    found = monitors.measure(model, output)
    assert found["vq_dead_share"] == 0.25
    assert found["vq_ema_perplexity"] == pytest.approx(12, rel=0.01)


def test_context_ratio_is_0_for_the_truth_and_1_for_the_mean():
    context = torch.randn(4, 5, 8, generator=rng())
    mean = context.mean((0, 1)).expand_as(context)
    assert monitors.context_ratio(context, context) == 0
    assert monitors.context_ratio(context, mean) == pytest.approx(1)
    assert monitors.context_ratio(context, 0.5 * (mean + context)) == pytest.approx(0.25, rel=1e-5)


def moving_slots(steps=4):
    """Slot 0 moves one cell to the right a frame, slot 1 stays: what attention made of it, the movement foreseen."""
    maps = torch.zeros(1, steps, 2, 8, 8)
    for t in range(steps):
        maps[0, t, 0, 3, 2 + t] = 1
    maps[0, :, 1, 6, 6] = 1
    responsibilities = torch.cat([torch.full((1, steps, 1, 8, 8), 0.75), torch.full((1, steps, 1, 8, 8), 0.25)], 2)
    movement = torch.zeros(1, steps, 2, 2)
    movement[0, :, 0, 0] = 0.25  # a cell is a quarter of half a frame
    some = torch.zeros(1, steps, 2)
    return AttentionOutput(maps, maps, responsibilities, some, movement, some, torch.zeros(1, steps))


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0.0), (0.0, 1.0), (-1.0, 4.0), (0.5, 0.25)])
def test_movement_is_judged_against_standing_still(factor, expected):
    attention = moving_slots()
    foreseen = attention._replace(predicted_movement=factor * attention.predicted_movement)
    found = monitors.attention_monitors(foreseen, torch.tensor([[True, False, False, False]]))
    assert found["attention_movement_ratio"] == pytest.approx(expected, abs=0.02)
    assert found["attention_mass_max"] == pytest.approx(0.75)


def test_still_maps_are_no_failure_of_foresight():
    attention = moving_slots()
    still = attention._replace(
        maps=attention.maps[:, :1].expand(-1, 4, -1, -1, -1),
        predicted_movement=1e-3 * attention.predicted_movement,
    )
    found = monitors.attention_monitors(still, torch.zeros(1, 4, dtype=torch.bool))
    assert found["attention_movement_ratio"] == pytest.approx(1, abs=0.01)


def test_reward_error_on_the_largest_rewards():
    rewards = torch.full((2, 10), 0.5)
    rewards[0, 3], rewards[1, 7] = 4.0, -6.0  # the tenth of 20 with the largest |r|
    predicted = torch.full((2, 10), 0.5)
    predicted[0, 3], predicted[1, 7], predicted[0, 0] = 3.0, -4.0, 1.5
    found = monitors.reward_monitors(predicted, rewards)
    assert found["reward_error"] == pytest.approx((1 + 2 + 1) / 20)
    assert found["reward_error_top"] == pytest.approx((1 + 2) / (4 + 6))
    assert not torch.isfinite(monitors.reward_monitors(predicted, torch.zeros(2, 10))["reward_error_top"])


# ---------------------------------------------------------------- imagination


@pytest.mark.parametrize("switch", ["all on", "no context", "teacher context", "two LSTM layers", "Gaussian prior"])
@pytest.mark.parametrize("resets", [(), (3,)])
def test_one_step_of_a_dream_is_the_step_of_training(switch, resets):
    model, sample = make_model(**SWITCHES[switch]), make_sample(resets=resets)
    output, found = measured(model, sample)
    assert found["imag_gap_carry/1"] < 1e-6
    inside = [t for t in range(1, 6) if t not in resets]
    expected = output.prior.bound[:, inside].mean().item()
    assert found["imag_gap_kl/1"] == pytest.approx(expected, rel=1e-4)
    assert torch.isfinite(found["imag_gap_kl/5"]) == (resets == ())  # no dream of 5 steps fits beside the reset


def test_a_transition_that_is_not_that_of_training_is_seen():
    model, sample = make_model().train(), make_sample()
    output = model(*sample._replace(rewards=None), generator=rng())
    with torch.no_grad():
        for parameter in model.dynamics.parameters():
            parameter.mul_(1.5)
    found = monitors.measure(model, output, rng())
    assert found["imag_gap_carry/1"] > 0.05


class CountingModel:
    """A world whose carry is the sum of all actions so far and whose reward is the carry."""

    reward_head = SimpleNamespace(predict=lambda features: features[..., 0])

    @staticmethod
    def prior(carry):
        shape = carry.shape[:-1]
        return PriorParams(None, None, torch.zeros(*shape, 1), torch.zeros(*shape, 1, 1), torch.ones(*shape, 1, 1))

    @staticmethod
    def imagine(state, policy, horizon, generator=None):
        states = [state]
        for _ in range(horizon):
            hidden = states[-1].hidden + policy(states[-1])[:, None]
            states.append(state._replace(hidden=hidden))
        return stack_states(states, 1), None


@pytest.mark.parametrize("wrong", [False, True])
def test_dreams_are_compared_at_the_right_index_under_the_right_actions(wrong):
    batch, steps = 3, 20
    actions = torch.randn(batch, steps, 1, generator=rng())
    carry = torch.cat([torch.zeros(batch, 1, 1), actions.cumsum(1)[:, :-1]], 1)
    rewards = carry[..., 0] + 0.5
    latent = torch.zeros(batch, steps, 1)
    is_first = torch.zeros(batch, steps, dtype=torch.bool)
    is_first[:, 0] = True
    states = State(carry[:, :, None], carry[:, :, None], latent, latent)
    observed = Observed(latent, None, latent, states, states, carry, mean=latent, std=torch.ones_like(latent))
    logged = actions.roll(1, dims=1) if wrong else actions
    found = monitors.imagination_gap(CountingModel(), observed, is_first, logged, rewards)
    assert set(found) == {f"imag_gap_{name}/{k}" for name in ("carry", "kl", "reward") for k in (1, 5, 15)}
    for k in (1, 5, 15):
        if wrong:
            assert found[f"imag_gap_carry/{k}"] > 0.05
        else:
            assert found[f"imag_gap_carry/{k}"] < 1e-5
            assert found[f"imag_gap_reward/{k}"] == pytest.approx(0.5, abs=1e-5)
            assert found[f"imag_gap_kl/{k}"] == pytest.approx(0, abs=1e-6)


def test_a_chunk_of_one_step_has_no_dream():
    _, found = measured(make_model(), make_sample(steps=1))
    assert not any(name.startswith("imag_gap") for name in found)
