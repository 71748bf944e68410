"""Every tensor at index t depends on x_<=t, a_<=t-1 of the same episode only; h_t also on a_t."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.world_model.small_model import EXTENDED, Sample, make_model, make_sample, rng, tensors
from world_model import DPGMMVariationalRecurrentAutoencoder

STEPS = 6
POOLED = {"cluster_entropy", "vq_perplexity", "effective_components"}  # statistics over the whole chunk
USES_ACTION = {"h_t", "next_token_ce"}  # at index t itself


def make_awake(**changes: Any) -> DPGMMVariationalRecurrentAutoencoder:
    """The toy model with heads that say something: at first their outputs are constant and hide what they read."""
    model = make_model(**changes)
    for last in (model.reward_head.net[-1], model.continue_head.net[-1]):
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, generator=rng())
    return model


def per_step(outputs: dict[str, Any]) -> dict[str, Tensor]:
    """The [B, T, ...] outputs, those of the states too; the inputs and pooled statistics aside."""
    found = {name: value for name, value in outputs.items() if name not in POOLED | {"observations", "states"}}
    return found | {f"states.{name}": value for name, value in tensors(outputs["states"]).items()}


def assert_equal_steps(left: dict[str, Any], right: dict[str, Any], steps: slice, skipped: set[str]) -> None:
    left, right = per_step(left), per_step(right)
    assert left.keys() == right.keys()
    for name in left.keys() - skipped:
        assert torch.equal(left[name][:, steps], right[name][:, steps]), name


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("tau", [1, 3, 5])
@pytest.mark.parametrize(("resets", "changes"), [((), {}), ((2,), {}), ((), EXTENDED)])
def test_later_frames_and_actions_change_nothing_before(
    mode: str, tau: int, resets: tuple[int, ...], changes: dict[str, Any]
) -> None:
    model = make_awake(**changes, n_lstm_layers=2)
    sample = make_sample(steps=STEPS, resets=resets)
    model.forward_sequence(*sample, rng())  # the first training forward fills the codebook from all its frames
    model.train(mode == "train")
    twin = copy.deepcopy(model)
    other = make_sample(steps=STEPS, seed=2)
    changed = sample._replace(observations=sample.observations.clone(), actions=sample.actions.clone())
    changed.observations[:, tau:] = other.observations[:, tau:]
    changed.actions[:, tau:] = other.actions[:, tau:]
    before, after = model.forward_sequence(*sample, rng()), twin.forward_sequence(*changed, rng())
    assert_equal_steps(before, after, slice(0, tau - 1), set())
    assert_equal_steps(before, after, slice(tau - 1, tau), {"next_token_ce"})  # its target is frame tau
    assert not torch.equal(before["carry"][:, -1], after["carry"][:, -1]) or tau == STEPS - 1
    assert not torch.equal(before["z_mean"][:, tau], after["z_mean"][:, tau])


def test_an_action_affects_what_comes_after_it_only() -> None:
    model, sample, tau = make_awake().eval(), make_sample(steps=STEPS), 3
    changed = sample._replace(actions=sample.actions.clone())
    changed.actions[:, tau] *= -1
    before, after = model.forward_sequence(*sample, rng()), model.forward_sequence(*changed, rng())
    assert_equal_steps(before, after, slice(0, tau), set())
    assert_equal_steps(before, after, slice(tau, tau + 1), USES_ACTION)
    assert not torch.equal(before["h_t"][:, tau], after["h_t"][:, tau])
    for name in ("carry", "reward_nll", "continue_nll"):
        assert not torch.equal(before[name][:, tau + 1], after[name][:, tau + 1]), name


@pytest.mark.parametrize("tau", [0, 3, STEPS - 1])
def test_a_target_concerns_its_own_index_only(tau: int) -> None:
    model, sample = make_awake().eval(), make_sample(steps=STEPS, resets=(3,))
    changed = sample._replace(rewards=sample.rewards.clone(), is_terminal=sample.is_terminal.clone())
    changed.rewards[:, tau] += 3.0
    changed.is_terminal[:, tau] ^= True
    before, after = (per_step(model.forward_sequence(*chunk, rng())) for chunk in (sample, changed))
    for name in before:
        is_changed = (before[name] != after[name]).view(2, STEPS, -1).any(-1)
        expected = torch.zeros_like(is_changed)
        expected[:, tau] = name in ("reward_nll", "continue_nll")
        assert torch.equal(is_changed, expected), name


def test_causality_by_gradient() -> None:
    model, tau = make_awake(), 2
    sample = make_sample(batch=1, steps=4)
    frames, actions = sample.observations.requires_grad_(), sample.actions.requires_grad_()
    outputs = model.forward_sequence(*sample, rng())
    features = outputs["states"].features
    # value at tau -> (last frame, last action) that reaches it
    values = {
        "carry": (outputs["carry"], tau - 1, tau - 1),
        "prior mean": (outputs["mu_k"], tau - 1, tau - 1),
        "z_mean": (outputs["z_mean"], tau, tau - 1),
        "reconstruction": (outputs["reconstructions"], tau, tau - 1),
        "attention": (outputs["attention_maps"].square(), tau, tau - 1),
        "reward": (model.reward_head.predict(features), tau, tau - 1),
        "continue": (model.continue_head(features), tau, tau - 1),
        "h_t": (outputs["h_t"], tau, tau),
    }
    for name, (value, last_frame, last_action) in values.items():
        by_frame, by_action = torch.autograd.grad(value[:, tau].sum(), (frames, actions), retain_graph=True)
        assert reached(by_frame) == list(range(last_frame + 1)), name
        assert reached(by_action) == list(range(last_action + 1)), name


def reached(gradient: Tensor) -> list[int]:
    """Indices t at which a gradient [1, T, ...] is not zero."""
    return [t for t in range(gradient.shape[1]) if gradient[:, t].abs().max() > 0]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("tau", range(1, STEPS))
def test_nothing_crosses_a_reset(mode: str, tau: int) -> None:
    model = make_awake(**EXTENDED, n_lstm_layers=2)
    sample = make_sample(steps=STEPS, resets=(tau,))
    model.forward_sequence(*sample, rng())
    model.train(mode == "train")
    twin = copy.deepcopy(model)
    other = make_sample(steps=STEPS, seed=2)
    changed = sample._replace(observations=sample.observations.clone(), actions=sample.actions.clone())
    changed.observations[:, :tau] = other.observations[:, :tau]
    changed.actions[:, :tau] = other.actions[:, :tau]
    before, after = model.forward_sequence(*sample, rng()), twin.forward_sequence(*changed, rng())
    assert_equal_steps(before, after, slice(tau, None), set())


def test_an_episode_inside_a_chunk_equals_the_episode_alone() -> None:
    model, sample, tau = make_model().eval(), make_sample(steps=STEPS, resets=(2,)), 2
    whole = model.forward_sequence(*sample, sample=False)
    alone = model.forward_sequence(*Sample(*(x[:, tau:] for x in sample)), sample=False)
    assert_same_episode(whole, alone, slice(tau, None))


@pytest.mark.parametrize(("start", "end"), [(1, 2), (2, 4), (3, 5)])
def test_an_episode_shorter_than_the_chunk_knows_neither_neighbour(start: int, end: int) -> None:
    model, sample = make_model(n_lstm_layers=2).eval(), make_sample(steps=STEPS, resets=(start, end))
    whole = model.forward_sequence(*sample, sample=False)
    alone = model.forward_sequence(*Sample(*(x[:, start:end] for x in sample)), sample=False)
    assert_same_episode(whole, alone, slice(start, end))
    # What crosses a boundary is not trained: no next tokens for its last frame, no movement into its first.
    assert (whole["next_token_ce"][:, end - 1] == 0).all()
    assert (whole["attention_dynamics_loss"][:, start] == 0).all()


def assert_same_episode(whole: dict[str, Any], alone: dict[str, Any], steps: slice) -> None:
    for name in ("carry", "h_t", "z_mean", "context", "context_pred", "pi", "reconstructions", "vq_indices", "kl_z"):
        # other matrix sizes, other order of sums
        torch.testing.assert_close(whole[name][:, steps], alone[name], rtol=1e-4, atol=1e-4, msg=name)
    for name in ("attention_maps", "prior_attention_maps", "decoder_maps"):
        torch.testing.assert_close(whole[name][:, steps], alone[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_rows_of_a_batch_do_not_see_each_other(mode: str) -> None:
    model, sample = make_model(n_lstm_layers=2), make_sample(batch=3, steps=STEPS, resets=(4,))
    model.forward_sequence(*sample, rng())
    model.train(mode == "train")
    twin = copy.deepcopy(model)
    other = make_sample(batch=1, steps=STEPS, seed=2)
    changed = Sample(*(torch.cat([new, old[1:]]) for new, old in zip(other, sample, strict=True)))
    before, after = per_step(model.forward_sequence(*sample, rng())), per_step(twin.forward_sequence(*changed, rng()))
    # Masked losses are scaled by the number of valid steps of the whole batch, and other resets make another number.
    for name in before.keys() - {"next_token_ce", "attention_dynamics_loss"}:
        assert torch.equal(before[name][1:], after[name][1:]), name
    assert not torch.equal(before["z_mean"][0], after["z_mean"][0])


def test_the_first_index_is_a_reset_whatever_is_first_says() -> None:
    model, sample = make_model().eval(), make_sample()
    marked = sample.is_first.clone()
    marked[:, 0] = True
    runs = [model.forward_sequence(*sample._replace(is_first=flags), rng()) for flags in (sample.is_first, marked)]
    runs.append(model.forward_sequence(*sample._replace(is_first=None), rng()))  # type: ignore[arg-type]
    for other in runs[1:]:
        assert_equal_steps(runs[0], other, slice(None), set())
    assert runs[0]["is_first"][:, 0].all()


def test_resets_everywhere_make_every_frame_an_episode() -> None:
    model, sample = make_model().eval(), make_sample(batch=2, steps=3, resets=(0, 1, 2))
    whole = model.forward_sequence(*sample, sample=False)
    alone = model.forward_sequence(*Sample(*(x.flatten(0, 1)[:, None] for x in sample)), sample=False)
    for name in ("carry", "h_t", "z_mean", "context", "prior_attention_maps"):
        expected = alone[name].flatten(0, 1).view_as(whole[name])
        torch.testing.assert_close(whole[name], expected, rtol=1e-4, atol=1e-5, msg=name)
    for name in ("next_token_ce", "attention_dynamics_loss"):  # they need a predecessor or a successor
        assert (whole[name] == 0).all(), name
