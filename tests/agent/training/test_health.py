"""Advice: said once when a metric leaves its range for good, once when it is back; and it names what exists."""

import copy
import dataclasses
import json
import math
import re

import pytest
import torch

from agent import Agent, Trainer, make_config
from agent.commands.parser import config_keys
from agent.config.presets import preset_names
from agent.training.health import Health, Range, expected_ranges
from replay import Chunk

LEVEL = Range(1.0, 2.0, "too little", "too much", settled=100, patience=3)


def said(values, expected=LEVEL, first_update=100):
    """What is said of a metric `x` at every one of successive lines of metrics."""
    health = Health({"x": expected})
    return [health.check({"x": value}, first_update + 100 * i) for i, value in enumerate(values)]


def test_one_line_when_it_leaves_and_one_when_it_returns():
    lines = said([1.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.5, 1.5, 1.5, 1.5])
    assert [i for i, line in enumerate(lines) if line] == [3, 8]
    assert lines[3] == ["x 0.5 is below its range, 1 to 2: too little"]
    assert lines[8] == ["x 1.5 is back in its range, 1 to 2"]


def test_above_has_its_own_advice_and_leaves_at_once_without_patience():
    assert said([2.5], dataclasses.replace(LEVEL, patience=1)) == [["x 2.5 is above its range, 1 to 2: too much"]]


def test_a_range_with_one_bound_is_told_as_such():
    floor = Range(low=1.0, below="too little", patience=1)
    assert said([0.5, 1.5], floor, 1000) == [["x 0.5 is below its range, at least 1: too little"],
                                             ["x 1.5 is back in its range, at least 1"]]  # fmt: skip


def test_single_bad_batches_say_nothing():
    assert not any(said([0.5, 0.5, 1.5] * 10))
    assert not any(said([1.0, 2.0] * 10))  # the bounds belong to the range


def test_nothing_before_it_can_have_settled():
    lines = said([0.5] * 10, dataclasses.replace(LEVEL, settled=500, patience=1), first_update=100)
    assert [i for i, line in enumerate(lines) if line] == [4]


@pytest.mark.parametrize("gap", [{}, {"x": math.nan}, {"x": math.inf}])
def test_what_is_absent_or_not_finite_says_nothing_and_interrupts_nothing(gap):
    health = Health({"x": LEVEL})
    for metrics in ({"x": 0.5}, gap, {"x": 0.5}, gap):
        assert health.check(metrics, 1000) == []
    assert len(health.check({"x": 0.5}, 1000)) == 1
    assert health.check(gap, 1000) == []
    assert health.outside == {"x"}


@pytest.mark.parametrize("preset", preset_names())
def test_every_bound_has_a_line_of_advice_that_names_settings_which_exist(preset):
    names = [key.split(".") for key in config_keys()]
    for metric, expected in expected_ranges(make_config(preset)).items():
        assert expected.low < expected.high, metric
        assert expected.patience >= 1, metric
        for bound, advice in ((expected.low, expected.below), (expected.high, expected.above)):
            assert bool(advice) == math.isfinite(bound), metric
            assert "\n" not in advice, metric
            for word in re.findall(r"[a-z]+(?:[._][a-z]+)+", advice.replace("metrics.jsonl", "")):
                parts = word.split(".")
                assert any(key[-len(parts) :] == parts for key in names), f"{metric}: {word}"


def test_ranges_follow_the_configuration():
    def ranges(**overrides):
        return expected_ranges(make_config("cpu", overrides=overrides))

    small = ranges(**{"world_model.perceiver_config.codebook_size": 64})["vq_perplexity"]
    assert ranges()["vq_perplexity"].low == 4 * small.low == 40
    assert ranges(**{"world_model.prior_config.free_nats": 3.0})["kl_bound"].low == 3.0
    assert ranges(**{"world_model.max_components": 15})["effective_components"].low == pytest.approx(4)
    gaussian = ranges(**{"world_model.max_components": 1})
    assert not {"effective_components", "component_mutual_information", "hierarchical_kl"} & set(gaussian)


def chunk(seed=0, steps=8):
    generator = torch.Generator().manual_seed(seed)
    is_first = torch.zeros(2, steps, dtype=torch.bool)
    is_first[:, 0] = True
    return Chunk(
        torch.randint(0, 256, (2, steps, 64, 64, 3), generator=generator, dtype=torch.uint8),
        torch.randn(2, steps, generator=generator),
        is_first,
        torch.zeros(2, steps, dtype=torch.bool),
        torch.zeros(2, steps, dtype=torch.bool),
        2 * torch.rand(2, steps, 2, generator=generator) - 1,
    )


def test_every_range_is_of_a_metric_that_an_update_reports():
    agent = Agent(make_config("debug", overrides={"train.log_every": 1}), action_dim=2)
    assert set(expected_ranges(agent.config)) <= set(agent.update(chunk()))


def test_monitors_come_at_log_time_only_and_change_nothing():
    agents = [Agent(make_config("debug", overrides={"train.log_every": every}), action_dim=2) for every in (2, 100)]
    for seed in range(4):
        watched, plain = (agent.update(chunk(seed)) for agent in agents)
        assert ("mixture_gap" in watched) == (seed % 2 == 1)
        assert "mixture_gap" not in plain
        assert all(torch.equal(plain[name], watched[name]) for name in plain)
    states = [agent.model.state_dict() for agent in agents]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_broken_reward_names_its_task():
    agent = Agent(make_config("debug"), action_dim=2)
    sound = chunk()
    agent.update(sound)
    learner = agent.model_learner
    before = [p.clone() for p in learner.parameters], copy.deepcopy(learner.optimizer.state_dict()["state"])
    metrics = agent.update(sound._replace(reward=sound.reward.clone().fill_(math.nan)))
    broken = {name: float(value) for name, value in metrics.items() if name.startswith("rgb_nonfinite/")}
    assert broken == {
        "rgb_nonfinite/total_elbo": 0.0,
        "rgb_nonfinite/perceiver_loss": 0.0,
        "rgb_nonfinite/total_predictive": 1.0,
    }
    assert all(torch.equal(p, old) for p, old in zip(learner.parameters, before[0], strict=True))
    for index, old in before[1].items():  # momentum would move weights, and a step of zeros would shrink it
        assert all(torch.equal(learner.optimizer.state[learner.parameters[index]][k], old[k]) for k in old)
    (line,) = Health(expected_ranges(agent.config)).check(broken, updates=1)
    assert line.startswith("rgb_nonfinite/total_predictive 1 is above its range, at most 0: ")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_run_counts_its_warnings_and_says_them_unless_quiet(tmp_path, monkeypatch, capsys, quiet):
    never = Range(high=-1.0, above="this cannot be; try [more] updates", settled=0, patience=2)
    monkeypatch.setattr("agent.training.trainer.expected_ranges", lambda config: {"recon_loss": never})
    changes = {"env_frames": 56, "replay.prefill_frames": 40, "env.num_envs": 1, "train.train_ratio": 16}
    config = make_config("debug", overrides=changes | {"train.eval_every": 10_000, "train.video_frames": 0})
    Trainer(config, tmp_path, quiet=quiet).run()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    counts = [row["health_warnings"] for row in rows if "health_warnings" in row]
    assert len(counts) > 2
    assert counts == [0.0] + [1.0] * (len(counts) - 1)
    shown = [line for line in capsys.readouterr().out.splitlines() if "cannot be" in line]
    assert len(shown) == (0 if quiet else 1)
    if not quiet:
        assert re.fullmatch(
            r"update 10: recon_loss \S+ is above its range, at most -1: this cannot be; try \[more\] updates", shown[0]
        )
