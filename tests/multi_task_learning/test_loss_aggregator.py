"""LossAggregator: each term once, weights as documented, absent pillars."""

import inspect

import pytest
import torch
from torch import Tensor

from multi_task_learning import LossAggregator, task_names
from multi_task_learning.loss_aggregator import SEED_GROUPS

# the table of ALGORITHM.md section 2, written out a second time with the default weights
DEFAULT_WEIGHTS = {
    "total_elbo": {
        "recon_loss": 1.0,
        "kl_z": 1.0,
        "hierarchical_kl": 1.0,
        "cluster_entropy": -0.1,
        "gram_enc_loss": 0.05,
    },
    "perceiver_loss": {"vq_recon": 1.0, "vq_commit": 0.25, "next_token_ce": 1.0},
    "total_predictive": {
        "attention_kl": 1.0,
        "attention_dynamics_loss": 0.1,
        "attention_diversity": 1.0,
        "slot_recon": 1.0,
        "context_nll": 0.1,
        "reward_nll": 1.0,
        "continue_nll": 1.0,
    },
}
TERMS = [term for terms in DEFAULT_WEIGHTS.values() for term in terms]


def make_outputs(*absent: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    terms = {name: torch.rand(4, 6, generator=generator).requires_grad_() for name in TERMS if name not in absent}
    return {"h_t": torch.zeros(4, 6, 512), **terms}


def test_totals_are_the_weighted_means() -> None:
    outputs = make_outputs()
    losses, tasks = LossAggregator().compute_losses(outputs)
    assert set(losses) == {*TERMS, *DEFAULT_WEIGHTS}
    assert all(value.ndim == 0 for value in losses.values())
    for task, (total, weights) in zip(tasks, DEFAULT_WEIGHTS.items(), strict=True):
        expected = sum(weight * outputs[name].detach().numpy().mean(dtype="f8") for name, weight in weights.items())
        assert task.item() == pytest.approx(expected, rel=1e-6)
        assert task is losses[total]


def test_the_tasks_count_every_term_exactly_once() -> None:
    outputs = make_outputs()
    _, tasks = LossAggregator().compute_losses(outputs)
    for task, weights in zip(tasks, DEFAULT_WEIGHTS.values(), strict=True):
        gradients = torch.autograd.grad(task, [outputs[name] for name in TERMS], allow_unused=True)
        for name, grad in zip(TERMS, gradients, strict=True):
            if name in weights:
                torch.testing.assert_close(grad, torch.full((4, 6), weights[name] / 24))
            else:
                assert grad is None


@pytest.mark.parametrize(
    ("weight", "terms"),
    [
        ("beta", {"kl_z": 3.0, "hierarchical_kl": 3.0, "attention_kl": 3.0}),
        ("lambda_recon", {"recon_loss": 3.0}),
        ("lambda_att_dyn", {"attention_dynamics_loss": 3.0}),
        ("lambda_gram", {"gram_enc_loss": 3.0}),
        ("entropy_weight", {"cluster_entropy": -3.0}),
        ("hier_scale", {"hierarchical_kl": 3.0}),
        ("lambda_context", {"context_nll": 3.0}),
    ],
)
def test_every_weight_reaches_its_terms(weight: str, terms: dict[str, float]) -> None:
    outputs = make_outputs()
    aggregator = LossAggregator()
    _, zero = aggregator.compute_losses(outputs, **{weight: 0.0})
    _, three = aggregator.compute_losses(outputs, **{weight: 3.0})
    difference = sum(three).item() - sum(zero).item()  # type: ignore[union-attr]
    expected = sum(factor * outputs[name].mean().item() for name, factor in terms.items())
    assert difference == pytest.approx(expected, rel=1e-4)


def test_every_named_factor_is_a_weight_and_every_weight_is_used() -> None:
    parameters = set(inspect.signature(LossAggregator.compute_losses).parameters) - {"self", "outputs"}
    named = {f for terms in SEED_GROUPS.values() for factors in terms.values() for f in factors if isinstance(f, str)}
    assert named == parameters


def test_absent_pillars_and_targets() -> None:
    losses, tasks = LossAggregator().compute_losses(make_outputs("vq_recon", "vq_commit", "next_token_ce"))
    assert "perceiver_loss" not in losses
    assert len(tasks) == 2
    losses, tasks = LossAggregator().compute_losses(make_outputs("reward_nll", "continue_nll"))
    assert len(tasks) == 3
    assert "reward_nll" not in losses
    only = {"recon_loss", "kl_z"}
    losses, tasks = LossAggregator().compute_losses(make_outputs(*(set(TERMS) - only)))
    assert set(losses) == {*only, "total_elbo"}
    assert len(tasks) == 1


def test_task_names_are_those_of_the_list() -> None:
    assert task_names(LossAggregator().compute_losses(make_outputs())[0]) == list(DEFAULT_WEIGHTS)
    losses, tasks = LossAggregator().compute_losses(make_outputs("vq_recon", "vq_commit", "next_token_ce"))
    names = task_names(losses)
    assert names == ["total_elbo", "total_predictive"]
    assert all(losses[name] is task for name, task in zip(names, tasks, strict=True))


@pytest.mark.parametrize("name", ["recon_loss", "kl_z"])
def test_what_must_be_there(name: str) -> None:
    with pytest.raises(ValueError, match=f"^outputs: lacks {name}; expected"):
        LossAggregator().compute_losses(make_outputs(name))


def test_groups_of_a_model_are_the_tasks_in_their_order() -> None:
    groups = {"second": {"b": (2.0, "beta"), "c": ("hier_scale",)}, "first": {"a": (-1.0,)}}
    outputs = {"a": torch.full((2, 3), 5.0), "b": torch.full((2, 3), 7.0), "c": torch.ones(2, 3)}
    losses, tasks = LossAggregator(groups).compute_losses(outputs, beta=10.0, hier_scale=0.5)
    assert list(losses) == ["b", "c", "a", "second", "first"]
    assert [task.item() for task in tasks] == [2 * 10 * 7 + 0.5, -5]
    assert task_names(losses, groups) == ["second", "first"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a", "outputs: lacks b, c; expected every term of the groups"),
        ("abcd", "outputs: got d without a group, expected a group for every loss"),
        ("bcxy", "outputs: lacks a; expected every term of the groups"),
    ],
)
def test_losses_and_given_groups_must_fit(names: str, message: str) -> None:
    aggregator = LossAggregator({"one": {"a": (1.0,), "b": (1.0,)}, "two": {"c": (1.0,)}})
    with pytest.raises(ValueError, match=f"^{message}$"):
        aggregator.compute_losses({name: torch.zeros(2, 3) for name in names})


def test_a_factor_that_is_no_weight() -> None:
    with pytest.raises(
        ValueError, match=r"^groups: got the weight 'bata' of one's a, expected a number or one of beta, "
    ):
        LossAggregator({"one": {"a": ("bata",)}})


def test_bad_terms_and_unknown_weights() -> None:
    with pytest.raises(ValueError, match="got shape"):
        LossAggregator().compute_losses(make_outputs() | {"kl_z": torch.zeros(0, 4)})
    with pytest.raises(ValueError, match="got float"):
        LossAggregator().compute_losses({**make_outputs(), "kl_z": 1.0})
    with pytest.raises(TypeError, match="lambda_reward"):
        LossAggregator().compute_losses(make_outputs(), lambda_reward=1.0)  # type: ignore[call-arg]
