"""What a log says: health as the run's own monitors have it, conflict, cost, stored scores."""

import json

import numpy as np
import pytest

from agent.config.presets import make_config
from agent.report import run_log


def rows(**metrics: list[float | None]) -> list[dict[str, float | int | None]]:
    length = len(next(iter(metrics.values())))
    return [
        {"env_frames": 10 * i, "updates": 1000 + 100 * i} | {name: values[i] for name, values in metrics.items()}
        for i in range(length)
    ]


def test_monitors_are_judged_by_three_lines_in_a_row():
    config = make_config("cpu", "walker_walk")
    log = rows(attention_kl=[0.5, 5, 5, 5, 5], mixture_gap=[0.9, 0.1, 0.9, 0.1, 0.9], vq_dead_share=[0.1] * 5)
    found = run_log.health_record(log, config)
    assert [(x.metric, x.verdict) for x in found.monitors] == [
        ("attention_kl", "out of range"),
        ("vq_dead_share", "too early"),  # before update 2,000
        ("mixture_gap", "in range"),  # never three lines in a row
    ]
    assert found.monitors[0].recent == 5
    assert "model_lr" in found.monitors[0].advice
    [(updates, line)] = found.reports
    assert updates == 1300
    assert line.startswith("attention_kl 5 is above its range, 0.01 to 2")


def test_conflict_is_the_share_of_lines_below_zero():
    log = rows(**{"rgb_cosine/01": [-0.5, 0.5, None, -0.1, -0.2], "rgb_weight/1": [1, 2, 3, 4, 5]})
    [found] = run_log.conflicts(log, ["total_elbo", "perceiver_loss"])
    assert found.tasks == ("total_elbo", "perceiver_loss")
    assert found.negative == 0.75
    assert found.cosine.x.tolist() == [0, 10, 30, 40]
    assert run_log.task_weights(log, ["a", "b"])["b"].y.tolist() == [1, 2, 3, 4, 5]
    assert run_log.conflicts(rows(loss=[1.0]), ["a", "b"]) == []


def test_cost_is_told_in_rates_of_the_whole_run():
    counters = {"wall_seconds": 7200.0, "env_frames": 72_000, "updates": 14_400}
    found = run_log.cost(counters, make_config("cpu", "walker_walk", {"threads": 1}), "cpu")
    assert (found.hours, found.frames_per_second, found.updates_per_second) == (2, 10, 2)
    assert found.device == "CPU, 1 thread"


def test_only_an_evaluation_of_this_checkpoint_counts(tmp_path):
    figures = {"mean": 5.0, "interval_low": 4.0, "interval_high": None, "returns": [5.0, 5.0]}
    (tmp_path / "evaluation.json").write_text(json.dumps({"updates": 7, "planner": None, "deterministic": figures}))
    found = run_log.stored_return(tmp_path, 7)
    assert found is not None
    assert (found.mean, found.low, np.isnan(found.high)) == (5, 4, True)
    assert found.source.startswith("2 deterministic episodes")
    assert run_log.stored_return(tmp_path, 8) is None
    (tmp_path / "evaluation.json").write_text("{")
    assert run_log.stored_return(tmp_path, 7) is None
    assert run_log.stored_return(tmp_path / "nowhere", 7) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, []), ({"behavior.horizon": 9, "seed": 3, "env_frames": 7}, ["behavior.horizon: 15 -> 9"])],
)
def test_settings_that_differ_from_the_preset_are_told(changes, expected):
    assert run_log.changed_settings(make_config("cpu", "walker_walk", changes)) == expected
