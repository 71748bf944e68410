"""rgb_config.method balanced in the agent: task losses, metrics, broken rewards, and what a checkpoint may hold."""

import copy
import math

import pytest
import torch

import run_agent
from agent.run_folder.contents import check_agent
from agent.training.health import Health, expected_ranges
from multi_task_learning import RGB, BalancedSum, LossAggregator
from tests.agent.learning.small_agent import make_agent, make_chunk
from world_model.loss_groups import BALANCED, GROUPS, regroup, terms

METHOD = {"world_model__rgb_config__method": "balanced"}
TOTALS = ["total_reconstruction", "total_kl", "total_reward"]


def test_every_loss_is_in_one_task_with_its_weight():
    groups = regroup(GROUPS)
    assert list(groups) == TOTALS == list(BALANCED)
    assert sorted(terms(groups)) == sorted(terms(GROUPS))
    assert set(groups["total_kl"]) == {"kl_z", "overshoot_kl", "slow_kl", "hierarchical_kl", "cluster_entropy"}
    assert set(groups["total_reward"]) == {"reward_nll", "overshoot_nll", "motion_nll", "continue_nll"}
    losses = {name: torch.rand(2, 3) for name in terms(GROUPS)}
    ours, theirs = (LossAggregator(which).compute_losses(losses)[1] for which in (groups, GROUPS))
    torch.testing.assert_close(sum(ours), sum(theirs))


def test_a_users_loss_joins_the_reconstruction_and_empty_groups_are_left_out():
    groups = regroup(
        {"total_predictive": {"of_mine": (0.5,), "context_nll": (1.0,)}, "total_elbo": {"kl_z": ("beta",)}}
    )
    assert groups == {
        "total_reconstruction": {"of_mine": (0.5,), "context_nll": (1.0,)},
        "total_kl": {"kl_z": ("beta",)},
    }


def test_an_update_names_its_own_totals_and_the_public_ones_stay():
    agent = make_agent(**METHOD, train__log_every=1)
    assert isinstance(agent.model_learner.rgb, BalancedSum)
    chunk = make_chunk(2, 8)
    for _ in range(3):
        metrics = agent.update(chunk)
    assert [name for name in metrics if name.startswith("total_")] == TOTALS
    assert set(expected_ranges(agent.config)) <= set(metrics)
    weights = [float(metrics[f"rgb_weight/{task}"]) for task in range(3)]
    assert weights[0] == 1
    assert all(1 / 3 <= weight <= 30.001 for weight in weights)
    assert metrics["rgb_skipped"] == 0
    losses, _ = agent.model.compute_total_loss(chunk.image.movedim(-1, 2) / 255, chunk.action)
    assert [name for name in losses if name in GROUPS] == ["total_elbo", "perceiver_loss", "total_predictive"]


def test_the_settings_reach_the_balancing():
    settings = {"gram_decay": 0.5, "min_weight": 0.2, "max_weight": 7.0, "reward_share": 0.3, "every": 5}
    settings |= {"lambd": 2.0, "alpha_steps": 4, "lr_inner": 0.1}
    balancing = make_agent(**METHOD, **{f"world_model__rgb_config__{k}": v for k, v in settings.items()})
    found = vars(balancing.model_learner.rgb)
    assert found["shares"] == [None, None, settings.pop("reward_share")]
    assert {name: found[name] for name in settings} == settings


def test_use_rgb_false_is_the_plain_sum_whatever_the_method():
    agent = make_agent(**METHOD, world_model__use_rgb=False)
    assert isinstance(agent.model_learner.rgb, RGB)
    assert agent.model_learner.rgb.method == "sum"
    assert list(agent.model_learner.aggregator.groups) == list(GROUPS)


def test_every_task_reaches_the_parameters_that_the_weights_are_measured_at():
    agent, chunk = make_agent(**METHOD), make_chunk(2, 8)
    agent.update(chunk)  # heads start at zero
    agent.update(chunk)
    model, learner = agent.model, agent.model_learner
    output = model(chunk.image.movedim(-1, 2) / 255, chunk.action, chunk.is_first, chunk.reward, chunk.is_terminal)
    _, tasks = learner.aggregator.compute_losses(output.losses)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    anchors = model.shared_parameters()
    assert {names[id(parameter)].split(".")[0] for parameter in anchors} == {"trunk", "posterior", "dynamics"}
    for task in tasks:
        gradients = torch.autograd.grad(task, anchors, retain_graph=True)
        assert all(gradient.any() for gradient in gradients)


def test_a_broken_reward_names_its_task_and_moves_nothing():
    agent, chunk = make_agent(**METHOD), make_chunk(2, 8)
    agent.update(chunk)
    learner = agent.model_learner
    before = [parameter.clone() for parameter in learner.parameters]
    metrics = agent.update(chunk._replace(reward=torch.full_like(chunk.reward, math.nan)))
    broken = {name: float(value) for name, value in metrics.items() if name.startswith("rgb_nonfinite/")}
    assert broken == {f"rgb_nonfinite/{total}": float(total == "total_reward") for total in TOTALS}
    assert all(torch.equal(new, old) for new, old in zip(learner.parameters, before, strict=True))
    (line,) = Health(expected_ranges(agent.config)).check(broken, updates=1)
    assert line.startswith("rgb_nonfinite/total_reward 1 is above its range, at most 0: ")


def test_state_round_trip_continues_bit_for_bit():
    agent, chunk = make_agent(**METHOD), make_chunk(2, 8)
    for _ in range(3):
        agent.update(chunk)
    state = copy.deepcopy(agent.state_dict())
    other = make_agent(**METHOD, seed=1)
    check_agent(state, other)
    other.load_state_dict(state)
    for _ in range(3):
        left, right = agent.update(chunk), other.update(chunk)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("gram", torch.zeros(2, 2), "agent.rgb.gram: got torch.float32 [2, 2], expected torch.float32 [3, 3]"),
        ("gram", torch.full((3, 3), math.nan), "agent.rgb.gram: got numbers that are not finite, expected finite ones"),
        ("gram", torch.zeros(9), "agent.rgb.gram: got torch.float32 [9], expected torch.float32 [any, any]"),
        ("alpha", torch.zeros(2), "agent.rgb.alpha: got torch.float32 [2], expected torch.float32 [3]"),
        ("weights", torch.zeros(4), "agent.rgb.weights: got torch.float32 [4], expected torch.float32 [3]"),
        ("weights", torch.zeros(3, dtype=torch.int8), "agent.rgb.weights: got torch.int8 [3], expected torch.float32"),
        ("seen", torch.zeros(()), "agent.rgb.seen: got torch.float32 [], expected torch.int64 []"),
        ("calls", -1, "agent.rgb.calls: got -1, expected a whole number of at least 0"),
        ("metrics", [], "agent.rgb.metrics: got a list of 0, expected a dict"),
        ("other", 1, "agent.rgb: got a dict with 'other'"),
    ],
)
def test_a_forged_state_is_one_line(name, value, line):
    agent = make_agent(**METHOD)
    agent.update(make_chunk(2, 8))
    state = agent.state_dict()
    state["rgb"] = state["rgb"] | {name: value}
    with pytest.raises(ValueError, match=r"^agent\.rgb") as caught:
        check_agent(state, agent)
    assert str(caught.value).startswith(line)


def test_a_state_before_the_first_update_and_one_of_rgb():
    agent = make_agent(**METHOD)
    check_agent(agent.state_dict(), agent)
    with pytest.raises(ValueError, match=r"^agent\.rgb: got a dict without 'gram'"):
        check_agent(make_agent().state_dict(), agent)


def test_weights_that_contradict_end_with_status_2_before_anything_is_written(tmp_path, capsys):
    options = ["--world_model.rgb_config.method=balanced", "--world_model.rgb_config.min_weight=40"]
    folder = ["--preset=debug", "--task=counting", f"--logdir={tmp_path / 'run'}"]
    assert run_agent.main(["train", *folder, *options]) == 2
    expected = "min_weight, max_weight: got (40.0, 30.0), expected 0 < min_weight <= 1 <= max_weight"
    assert capsys.readouterr().err.splitlines() == [f"run_agent.py: error: {expected}"]
    assert not (tmp_path / "run" / "checkpoints").exists()
