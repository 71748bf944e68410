"""The benchmark commands run and report what they promise. No figure is judged."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from agent.config.presets import make_config
from benchmarks.speed import pillars, throughput
from world_model import DPGMMVariationalRecurrentAutoencoder, terms

RATES = {
    "updates_per_second",
    "trained_frames_per_second",
    "model_update_ms",
    "behavior_update_ms",
    "env_frames_per_second_random",
    "env_frames_per_second_agent",
    "replay_batches_per_second",
    "replay_batches_per_second_16x64",
}


def test_throughput_reports_every_figure(tmp_path, capsys):
    path = tmp_path / "out.json"
    assert throughput.main(["--preset", "debug", "--threads", "1", "--seconds", "0.01", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert set(report) == {"settings", "machine", "results", "parameters"}
    assert set(report["results"]) == RATES
    assert all(value > 0 for value in report["results"].values())
    parts = dict(report["parameters"])
    assert parts.pop("total") == sum(parts.values())
    assert {"trunk", "posterior", "prior", "dynamics", "decoder", "actor", "critic"} <= set(parts)
    assert {"cpu", "versions", "commit"} <= set(report["machine"])
    assert report["settings"]["preset"] == "debug"
    assert report["settings"]["task"] == "counting"
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*report["results"], *report["parameters"], *report["machine"]])


def test_rate_is_the_median_of_slices(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    durations = iter([9.0, *[1.0] * 2, *[4.0], *[1.0] * 2, *[0.5] * 4, *[2.0]])  # a warm-up, then slices of 2 seconds

    def work() -> int:
        now[0] += next(durations)
        return 3

    # slices: 2 x 3 in 2 s, 3 in 4 s, 2 x 3 in 2 s, 4 x 3 in 2 s, 3 in 2 s -> rates 3, .75, 3, 6, 1.5
    assert throughput.median_rate(work, seconds=10.0) == pytest.approx(3.0)


def test_replay_is_full_of_legal_episodes():
    buffer = throughput.filled_replay(1200, action_dim=2)
    assert len(buffer) == 1200
    assert buffer.sample(4, 64).image.shape == (4, 64, 64, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "cpuu"], "cpu"),
        (["--preset", "debug", "--task", "cartpole_swingupp"], "cartpole_swingup"),
        (["--threads", "0"], "threads"),
        (["--seconds", "nan"], "seconds"),
        (["--json", "/no/such/folder/out.json"], "json"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, arguments, named):
    assert throughput.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error


# ---------------------------------------------------------------- pillars.py

TOTALS = ("whole forward", "whole update")
TINY = ["--preset", "debug", "--batch", "2", "--length", "4", "--repeats", "1", "--threads", "1"]


def by_name(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in rows}


def test_pillars_table_adds_up(tmp_path, capsys):
    path = tmp_path / "out.json"
    assert pillars.main([*TINY, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    parts, gradients = by_name(report["parts"], "part"), by_name(report["gradients"], "gradients")

    names = list(parts)
    inner = names[: names.index("whole forward")]
    outer = [name for name in names if name not in (*inner, *TOTALS)]
    for key in ("parameters", "gflops", "ms"):
        forward = sum(parts[name][key] for name in inner)
        assert parts["whole forward"][key] == pytest.approx(forward)
        assert parts["whole update"][key] == pytest.approx(forward + sum(parts[name][key] for name in outer))
    assert all(row["ms"] > 0 for row in parts.values())
    assert parts["other of the forward"]["gflops"] == parts["other of the update"]["gflops"] == 0  # no work unclaimed
    assert sum(row["share"] for name, row in parts.items() if name not in TOTALS) == pytest.approx(1.0)
    model = DPGMMVariationalRecurrentAutoencoder(**asdict(make_config("debug").world_model))
    assert parts["whole update"]["parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)

    # By hand, 8 frames: convolutions 3 -> 16 (8 x 8 kernel, to 16 x 16 cells) and 16 -> 32 (4 x 4, to 8 x 8)
    trunk = 2 * 8 * (3 * 16 * 8**2 * 16**2 + 16 * 32 * 4**2 * 8**2)
    assert parts["trunk, frame norm"]["gflops"] == pytest.approx(trunk / 1e9)
    assert report["settings"]["preset"] == "debug"
    assert report["settings"]["batch"] == 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*parts, *gradients, *report["machine"]])


def test_lazy_rgb_costs_a_solve_and_then_plain_passes():
    report = pillars.measure(make_config("debug"), batch=2, length=4, threads=1, repeats=1)
    plain, naive, lazy = report["gradients"]
    assert naive["gradients"] == "RGB, every update"
    assert lazy["gradients"] == "RGB, every 2 updates"
    assert 1.2 * plain["backward_gflops"] < naive["backward_gflops"] < 3 * plain["backward_gflops"]
    assert 2 * lazy["backward_gflops"] == pytest.approx(naive["backward_gflops"] + plain["backward_gflops"])
    extra = naive["backward_gflops"] - plain["backward_gflops"]  # the forward is the same
    assert naive["rgb_share_gflops"] == pytest.approx(extra / plain["update_gflops"])
    assert plain["rgb_share_gflops"] == plain["rgb_share_ms"] == 0
    assert report["parts"][-1]["ms"] == pytest.approx(plain["update_ms"])


def test_a_pillar_that_is_off_has_no_row():
    off = {
        "world_model.perceiver_config.enabled": False,
        "world_model.attention_config.enabled": False,
        "world_model.encoder_config.gram_fraction": 0.0,
        "world_model.use_rgb": False,
    }
    before = terms.prior_terms
    report = pillars.measure(make_config("debug", None, off), batch=2, length=3, threads=1, repeats=1)
    assert terms.prior_terms is before  # what was wrapped is unwrapped
    assert [row["part"] for row in report["parts"]][:5] == [
        "trunk, frame norm",
        "posterior, pillar 3: scan",
        "pillar 2: mixture prior",
        "decoder",
        "reward, continue heads",
    ]
    assert [row["gradients"] for row in report["gradients"]] == ["plain sum"]


@pytest.mark.slow
def test_pillars_measures_the_presets_row_of_the_task(tmp_path):
    path = tmp_path / "out.json"
    parameters = {}
    for task in ("cartpole_swingup", "reaching"):
        sizes = ["--batch", "2", "--length", "2", "--repeats", "1", "--threads", "1"]
        assert pillars.main(["--preset", "cpu", "--task", task, *sizes, "--json", str(path)]) == 0
        report = json.loads(path.read_text())
        assert report["settings"]["task"] == task
        parameters[task] = next(row["parameters"] for row in report["parts"] if row["part"] == "whole update")
    assert parameters["reaching"] < parameters["cartpole_swingup"]  # its row has smaller widths


def test_what_is_spent_belongs_to_the_innermost_part():
    now = [0.0]
    ledger = pillars.Ledger(lambda: now[0], "other")

    def work(seconds: float, then: Callable[[], None] | None = None) -> None:
        now[0] += seconds
        if then is not None:
            then()
            now[0] += seconds

    def fail() -> None:
        now[0] += 5
        raise RuntimeError("broken")

    inner = ledger.charge("inner", work)
    now[0] += 1
    ledger.charge("outer", work)(2, lambda: inner(10))
    inner(20)
    with pytest.raises(RuntimeError, match="broken"):
        ledger.charge("outer", fail)()
    now[0] += 3
    ledger.settle()
    assert ledger.amounts == {"other": 1 + 3, "outer": 2 + 2 + 5, "inner": 10 + 20}


def test_a_block_of_updates_costs_the_mean_of_its_medians():
    blocks = [[{"part": solve}, {"part": reuse}] for solve, reuse in ((9.0, 1.0), (5.0, 100.0), (6.0, 2.0))]
    assert pillars.typical(blocks) == {"part": (6.0 + 2.0) / 2}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "cpuu"], "cpu"),
        (["--task", "cartpole_swingupp"], "cartpole_swingup"),
        (["--batch", "0"], "batch"),
        (["--length", "-1"], "length"),
        (["--threads", "0"], "threads"),
        (["--repeats", "0"], "repeats"),
        (["--json", "/no/such/folder/out.json"], "json"),
    ],
)
def test_bad_input_of_pillars_is_one_line_and_status_2(capsys, arguments, named):
    assert pillars.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
