"""Learning curves: which runs belong together, their mean and interval by hand, and what is refused."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from agent.config.presets import make_config
from agent.evaluation import curves
from agent.evaluation.curve_figure import draw_panel, make_axes
from agent.evaluation.curves import (
    Panel,
    grouped,
    labels,
    load_references,
    load_run,
    mean_curve,
    panels,
    points,
    references,
    seed_points,
)
from run_agent import main

ROOT = Path(__file__).resolve().parents[3]
EVALUATIONS = [(10_000, 100.0), (20_000, 200.0)]


def make_run(
    folder: Path,
    name: str,
    evaluations: list[tuple[int, float]] = EVALUATIONS,
    training: list[tuple[int, float]] = (),
    **settings: Any,
) -> Path:
    """A run's folder as the trainer leaves it, less what no plot reads. Settings have "__" for the dots."""
    values: dict[str, Any] = {"task": "cartpole_swingup", "seed": 0}
    for key, value in settings.items():
        block, _, last = key.rpartition("__")
        (values.setdefault(block, {}) if block else values)[last] = value
    logdir = folder / name
    logdir.mkdir(parents=True)
    (logdir / "config.yaml").write_text(yaml.safe_dump(values))
    rows = [row(at, eval_return=value) for at, value in evaluations] + [row(at, train_return=v) for at, v in training]
    lines = [json.dumps(found) for found in sorted(rows, key=lambda found: found["env_frames"])]
    (logdir / "metrics.jsonl").write_text("\n".join([*lines, '{"env_frames": 99, "eval_re']))  # cut by a crash
    return logdir


def row(at: int, **metrics: float) -> dict[str, float]:
    return {"env_frames": at, "agent_steps": at // 2, "updates": at // 4, "wall_seconds": at / 100} | metrics


# ---------------------------------------------------------------- numbers


def test_a_runs_points_are_sorted_distinct_and_finite(tmp_path):
    run = load_run(make_run(tmp_path, "a", [(300, 3.0), (100, 1.0), (100, 2.0)]))
    run.rows.append(row(400, eval_return=None))  # what was not finite
    np.testing.assert_array_equal(points(run, "eval_return"), [[100, 300], [1.5, 3.0]])
    np.testing.assert_array_equal(points(run, "eval_return", "agent_steps")[0], [50, 150])
    assert len(points(run, "recon_loss")[0]) == 0


def test_training_returns_are_means_of_five_episodes(tmp_path):
    returns = [(at, float(at)) for at in range(10, 80, 10)]
    run = load_run(make_run(tmp_path, "a", training=returns))
    np.testing.assert_array_equal(points(run, "train_return"), [[50, 60, 70], [30, 40, 50]])
    few = load_run(make_run(tmp_path, "b", training=returns[:2]))
    np.testing.assert_array_equal(points(few, "train_return"), [[20], [15]])


def test_the_mean_and_its_interval_are_those_of_a_hand():
    seeds = [([0.0, 10.0], [0.0, 10.0]), ([0.0, 5.0, 20.0], [3.0, 5.0, 35.0]), ([-5.0, 20.0], [8.0, 8.0])]
    curve = mean_curve("ours", [(np.array(x), np.array(y)) for x, y in seeds])
    np.testing.assert_array_equal(curve.x, [0, 5, 10])  # what all three reach
    # At 0: 0, 3, 8. At 5: 5, 5, 8. At 10: 10, 15, 8.
    np.testing.assert_allclose(curve.mean, [11 / 3, 6, 11])
    # Student: t(0.975, 2) = 4.30265; std at 5 is sqrt((1 + 1 + 4) / 2) = sqrt(3), at 10 sqrt((1 + 16 + 9) / 2).
    half = 4.30265 * np.sqrt([(121 + 4 + 169) / 9 / 2, 3, 13]) / np.sqrt(3)
    np.testing.assert_allclose(curve.high - curve.mean, half, rtol=1e-5)
    np.testing.assert_allclose(curve.mean - curve.low, half, rtol=1e-5)
    assert curve.runs == 3


@pytest.mark.parametrize(("runs", "bands"), [(1, 0), (2, 0), (3, 1)])
def test_an_interval_is_drawn_from_three_runs_on(runs, bands):
    seeds = [(np.array([0.0, 1.0]), np.array([2.0, 3.0 + seed])) for seed in range(runs)]
    _, (ax,) = make_axes(1)
    draw_panel(ax, Panel("task", [mean_curve("ours", seeds)], [[]], []))
    assert len(ax.collections) == bands


def test_one_seed_has_no_interval_and_seeds_apart_have_no_mean():
    seed = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    alone = mean_curve("one", [seed])
    np.testing.assert_array_equal(alone.mean, [3, 5])
    assert np.isnan(alone.low).all()
    assert np.isnan(alone.high).all()
    with pytest.raises(
        ValueError, match="'both': got one run that ends at 2 and one that begins at 10, expected an overlap"
    ):
        mean_curve("both", [seed, (np.array([10.0]), np.array([1.0]))])


def test_seeds_are_together_and_settings_apart(tmp_path):
    made = {
        "a0": {"seed": 0},
        "a1": {"seed": 1, "env_frames": 77, "threads": 3, "train__log_every": 7, "train__train_ratio": 512},
        "b0": {"world_model__use_rgb": False},
        "c0": {"behavior__gamma": 0.5, "seed": 4},
        "walker": {"task": "walker_walk"},
    }
    runs = [load_run(make_run(tmp_path, name, **settings)) for name, settings in made.items()]
    groups = grouped(runs)
    assert [[run.logdir.name for run in group] for group in groups] == [["a0", "a1"], ["b0"], ["c0"], ["walker"]]
    assert labels(groups[:3]) == [
        "use_rgb true, behavior.gamma 0.997",
        "use_rgb false, behavior.gamma 0.997",
        "use_rgb true, behavior.gamma 0.5",
    ]
    assert labels(groups[3:]) == ["AIME"]
    drawn = panels(runs)
    assert [panel.title.split()[0] for panel in drawn] == ["cartpole_swingup", "walker_walk"]
    assert [curve.runs for curve in drawn[0].curves] == [2, 1, 1]
    assert drawn[0].curves[0].label.endswith("(2 seeds, 95 % interval)")
    assert drawn[0].curves[1].label.endswith("(1 seed, no interval)")


def test_a_label_of_many_settings_tells_only_what_is_needed(tmp_path):
    changes = {"preset": "cpu", "behavior__gamma": 0.5, "behavior__horizon": 3, "replay__batch_size": 2}
    runs = [load_run(make_run(tmp_path, "a")), load_run(make_run(tmp_path, "b", **changes))]
    first, second = labels(grouped(runs))
    assert (first, second) == ("preset gpu, and 3 more settings", "preset cpu, and 3 more settings")


def test_a_label_names_the_block_where_the_key_alone_says_nothing(tmp_path):
    runs = [load_run(make_run(tmp_path, "a")), load_run(make_run(tmp_path, "b"))]
    runs[1].settings["world_model.perceiver_config.enabled"] = False
    assert labels(grouped(runs)) == ["perceiver_config.enabled true", "perceiver_config.enabled false"]


def test_the_same_seed_twice_is_said_and_counts_once(tmp_path):
    twice, once = [(10_000, 100.0), (20_000, 200.0)], [(10_000, 300.0), (20_000, 400.0)]
    runs = [load_run(make_run(tmp_path, name, twice, seed=0)) for name in ("a", "copy")]
    runs.append(load_run(make_run(tmp_path, "early copy", twice[:1], seed=0)))
    runs.append(load_run(make_run(tmp_path, "c", once, seed=1)))
    (curve,) = panels(runs)[0].curves
    (single,) = panels([runs[0], runs[3]])[0].curves
    assert "4 runs of 2 seeds, 95 % interval" in curve.label
    assert curve.runs == 2
    for name in ("x", "mean", "low", "high"):
        np.testing.assert_array_equal(getattr(curve, name), getattr(single, name))
    (alone,) = panels(runs[:2])[0].curves
    assert "2 runs of 1 seed, no interval" in alone.label
    assert np.isnan(alone.low).all()


def test_two_runs_of_a_seed_are_their_mean_where_both_have_come(tmp_path):
    runs = [load_run(make_run(tmp_path, "a", [(10, 1.0), (20, 3.0)])), load_run(make_run(tmp_path, "b", [(10, 3.0)]))]
    ((x, mean),) = seed_points(runs, "eval_return")
    assert (x.tolist(), mean.tolist()) == ([10, 20], [2.0, 3.0])


def write_config(run: Path, preset: str, **overrides: Any) -> Path:
    """All settings of a real run into its folder."""
    (run / "config.yaml").write_text(yaml.safe_dump(asdict(make_config(preset, "cartpole_swingup", overrides))))
    return run


def test_a_baseline_is_named_by_its_algorithm_and_only_by_settings_that_it_uses(tmp_path):
    ours = load_run(write_config(make_run(tmp_path, "ours"), "cpu"))
    same = load_run(write_config(make_run(tmp_path, "sac"), "cpu", algo="sac"))
    other = load_run(write_config(make_run(tmp_path, "sac wide"), "cpu", algo="sac", size="10m"))
    assert labels(grouped([ours, same, other])) == ["AIME", "SAC"]  # a model's width is nothing to SAC
    fast = load_run(write_config(make_run(tmp_path, "sac fast"), "cpu", algo="sac", **{"sac.learning_rate": 0.01}))
    assert labels(grouped([ours, same, fast])) == [
        "AIME",
        "SAC, sac.learning_rate 0.001",
        "SAC, sac.learning_rate 0.01",
    ]
    gpu = load_run(write_config(make_run(tmp_path, "sac gpu"), "gpu", algo="sac"))
    assert labels(grouped([same, gpu])) == ["num_envs 1, and 3 more settings", "num_envs 8, and 3 more settings"]


def test_a_figure_counts_the_runs_that_have_no_evaluation_yet(tmp_path):
    runs = [load_run(make_run(tmp_path, "a")), load_run(make_run(tmp_path, "b", [], [(500, 1.0)], seed=1))]
    other = load_run(make_run(tmp_path, "c", [], [(500, 1.0)], task="walker_walk"))
    (panel,) = panels([*runs, other])
    assert panel.title.splitlines()[1] == "without 1 of 2 runs: no eval_return yet"
    assert "without" not in panels(runs[:1])[0].title


def test_training_returns_and_published_curves_stand_beside_evaluations(tmp_path):
    training = [(at, 50.0) for at in range(1000, 30_000, 1000)]
    run = load_run(make_run(tmp_path, "a", training=training))
    panel = panels([run])[0]
    np.testing.assert_array_equal(panel.training[0][0][0][[0, -1]], [5000, 29_000])
    assert {curve.label.split(",")[0] for curve in panel.references} == {"DreamerV3", "DrQ-v2", "DrQ"}
    assert all(curve.x[-1] == 29_000 for curve in panel.references)
    for metric, x in (("train_return", "updates"), ("train_return", "env_frames")):
        other = panels([run], metric, x)[0]
        assert not any(other.training)
        assert bool(other.references) == (x == "env_frames")


def test_published_curves_are_those_of_their_sources():
    (dreamer,) = [curve for curve in load_references()["walker_walk"] if curve.label.startswith("DreamerV3")]
    assert dreamer.label == "DreamerV3, published (repeat 2, training returns)"
    # shared/reference/dmc_reference_curves.csv
    at = dict(zip(dreamer.x, dreamer.mean, strict=True))
    assert (at[20_000], at[100_000], at[1_000_000]) == pytest.approx((189.2, 638.9, 963.2), abs=0.06)
    repeats = {curve.label for curve in load_references()["cartpole_swingup"]}
    assert "DrQ, published (repeat 8, evaluations)" in repeats
    cut = references("walker_walk", 30_000)
    assert len(cut) == 4 - 1  # TD-MPC2's begins at 100,000
    assert references("walker_walk", 20_000) == references("reaching", 1e6) == []
    middle = next(curve for curve in cut if curve.label.startswith("DreamerV3"))
    assert middle.mean[-1] == pytest.approx((at[20_000] + at[40_000]) / 2)
    assert curves.REFERENCE_FILE.stat().st_size < 100_000


# ---------------------------------------------------------------- the command


def test_plot_writes_a_picture_and_its_numbers(capsys, tmp_path):
    runs = [str(make_run(tmp_path / "runs", f"s{seed}", [(10_000, 100.0 * seed)], seed=seed)) for seed in (1, 2)]
    runs.append(str(make_run(tmp_path / "runs", "new", [], [(500, 1.0)], seed=3)))
    out, numbers = tmp_path / "deep" / "curves.png", tmp_path / "curves.json"
    assert main(["plot", *runs, runs[0], "--out", str(out), "--json", str(numbers)]) == 0
    told = capsys.readouterr().out
    assert f"skipped, no eval_return yet: {runs[2]}" in told
    assert "150.00 [-485.31, 785.31] at 10,000  AIME (2 seeds, 95 % interval)" in told  # t(0.975, 1) = 12.706, std 70.7
    with Image.open(out) as picture:
        picture.load()
        assert min(picture.size) > 500
        assert len(picture.convert("L").getcolors(256)) > 20
    (panel,) = json.loads(numbers.read_text())
    assert (panel["curves"][0]["x"], panel["curves"][0]["mean"]) == ([10_000], [150])
    assert panel["references"] == []  # the first published value is at 20,000


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_plot_writes_other_formats_and_metrics(tmp_path, suffix):
    run, out = make_run(tmp_path, "a", training=[(10, -3.0), (20, -4.0)]), tmp_path / f"c{suffix}"
    assert main(["plot", str(run), "--out", str(out), "--metric", "train_return", "--x", "wall_seconds"]) == 0
    assert out.stat().st_size > 1000


def test_plot_draws_where_a_notebooks_backend_is_set(tmp_path):
    run = make_run(tmp_path, "a")
    command = [sys.executable, "run_agent.py", "plot", str(run), "--out", str(tmp_path / "c.png")]
    backend = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    subprocess.run(command, cwd=ROOT, env=os.environ | backend, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_plot_replaces_no_file_that_the_user_names(capsys, tmp_path):
    run, out = str(make_run(tmp_path, "a")), tmp_path / "c.png"
    out.write_text("precious")
    for option in ("--out", "--json"):
        assert "which exists, expected a new name (or --overwrite)" in refused(capsys, run, option, str(out))
    assert out.read_text() == "precious"
    assert main(["plot", run, "--out", str(out), "--overwrite"]) == 0
    assert "replacing the previous one" in capsys.readouterr().out


def refused(capsys, *argv: str) -> str:
    assert main(["plot", *argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    return captured.err


def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = str(make_run(tmp_path, "good"))
    (tmp_path / "empty").mkdir()
    assert "no config.yaml in it" in refused(capsys, "empty")
    assert "no config.yaml in it" in refused(capsys, "nowhere")
    assert "expected one that these runs have: eval_return" in refused(capsys, good, "--metric", "evl_return")
    assert "got 'frames', expected one of env_frames" in refused(capsys, good, "--x", "frames")
    assert "expected a name ending in .png, .pdf, .svg" in refused(capsys, good, "--out", "curves.jpg")
    assert "is a file, expected a folder" in refused(capsys, good, "--out", f"{good}/config.yaml/c.png")
    assert "a folder" in refused(capsys, good, "--json", "empty")
    assert "runs" in refused(capsys)
    assert "'metric'" in refused(capsys, good, "--metrc", "x")
    assert not list(tmp_path.glob("*.png"))


def test_folders_without_a_run_are_left_out(capsys, tmp_path):
    (tmp_path / "runs").mkdir()
    good, new, out = make_run(tmp_path / "runs", "good"), make_run(tmp_path / "runs", "new"), tmp_path / "c.png"
    (new / "metrics.jsonl").unlink()
    (tmp_path / "runs" / "best").mkdir()
    (tmp_path / "runs" / "model.zip").write_bytes(b"")
    folders = sorted(map(str, (tmp_path / "runs").iterdir()))
    assert main(["plot", *folders, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert [line.split(":")[0] for line in said.splitlines()].count("skipped") == 3
    assert str(good) not in said
    assert out.is_file()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("metrics.jsonl", "no JSON at all\n\x00\n", "metrics.jsonl: got no line of metrics"),
        ("metrics.jsonl", "", "metrics.jsonl: got no line of metrics"),
        ("config.yaml", "task: [", "not readable as YAML"),
        ("config.yaml", "- 3", "expected the settings of a run"),
    ],
)
def test_damaged_runs_are_one_line(capsys, tmp_path, name, text, expected):
    logdir = make_run(tmp_path, "a")
    (logdir / name).write_text(text)
    assert expected in refused(capsys, str(logdir), "--out", str(tmp_path / "c.png"))
