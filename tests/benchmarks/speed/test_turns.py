"""The benchmarks of replay, environments and start-up run and report what they promise. No figure is judged."""

import json

import numpy as np
import pytest

from benchmarks.harness.timing import alternate
from benchmarks.speed import environments, replay, startup
from envs import Driver, make_vector_env


def test_works_are_timed_in_turns_and_medians_leave_the_warm_up_out():
    now, calls = [0.0], []
    durations = {"a": iter([90.0, 1.0, 7.0, 3.0]), "b": iter([90.0, 10.0, 20.0, 60.0])}

    def work(name):
        calls.append(name)
        now[0] += next(durations[name])

    found = alternate({name: lambda name=name: work(name) for name in "ab"}, 3, lambda: now[0])
    assert found == {"a": 3.0, "b": 20.0}
    assert calls == list("abbaabba")


def test_replay_reports_every_figure(tmp_path, capsys):
    path = tmp_path / "out.json"
    arguments = ["--rows", "4000", "--repeats", "1", "--minutes", "0", "--folder", str(tmp_path), "--json", str(path)]
    assert replay.main(arguments) == 0
    report = json.loads(path.read_text())
    assert set(report) == {"settings", "machine", "results"}
    results = report["results"]
    assert results["ring_gb"] == pytest.approx(4000 * (64 * 64 * 3 + 4 + 3 + 4 * 6) / 1e9)
    assert results["unfinished_episodes_gb"] == pytest.approx(results["ring_gb"] * 8 * 499 / 4000)
    for name in ("16x64", "8x16"):
        ratio = results[f"sample_{name}_ms"] / results[f"memcpy_{name}_ms"]
        assert results[f"sample_{name}_over_memcpy"] == pytest.approx(ratio)
    printed = capsys.readouterr().out
    assert all(name in printed for name in [*results, *report["machine"]])


def test_the_soak_goes_on_until_its_ring_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "SOAK_ROWS", 2 * 8 * replay.EPISODE)
    monkeypatch.setattr(replay, "BATCHES", {"16x64": (1, 64)})
    results = replay.soak(minutes=0, folder=tmp_path)
    assert results["soak_rows_written"] == 2 * 8 * replay.EPISODE
    assert results["soak_samples"] == 8 * (2 * replay.EPISODE - 64) / 2  # eight at every other tick from 64 rows on
    assert results["soak_handles_least"] == results["soak_handles_most"] > 0
    assert len(list(tmp_path.glob("*.ep"))) == 16


def test_ticks_are_what_a_driver_yields():
    made = replay.ticks(num_envs=2, length=3)
    found = [next(made) for _ in range(6)]
    with Driver(make_vector_env("counting", 1, length=2)) as driver:
        rows = [driver.tick(lambda step: np.ones_like(step.action)) for _ in range(6)]
    for name in ("is_first", "is_last", "is_terminal"):
        for left, right in zip(found, rows, strict=True):
            assert (getattr(left, name) == getattr(right, name)).all()
    assert found[0].image.dtype == np.uint8
    assert found[0].image.shape == (2, 64, 64, 3)


@pytest.mark.slow
def test_environments_reports_every_figure(tmp_path):
    path = tmp_path / "out.json"
    arguments = ["--workers", "2", "--ticks", "3", "--repeats", "1", "--json", str(path)]
    assert environments.main(arguments) == 0
    results = json.loads(path.read_text())["results"]
    bare = results["bare_frames_per_second"]
    for name in ("driver", "driver_2", "bare_2"):
        assert results[f"{name}_over_bare"] == pytest.approx(results[f"{name}_frames_per_second"] / bare)


@pytest.mark.slow
def test_loops_side_by_side_all_run_at_every_turn():
    """Every process answers each turn once, and none is left behind."""
    with environments.SideBySide(2, "cartpole_balance", 2, "fast", ticks=1) as crowd:
        for _ in range(3):
            crowd()
        assert all(process.is_alive() for process in crowd.processes)
        assert not any(pipe.poll(0) for pipe in crowd.pipes)
    assert not any(process.is_alive() for process in crowd.processes)


def test_startup_times_a_run_that_ends_at_its_first_frame():
    times = startup.time_train("counting", "debug")
    assert 0 < times["until_imported_seconds"] < times["until_built_seconds"] < times["first_frame_seconds"]
    assert times["first_frame_cpu_seconds"] > 0


@pytest.mark.parametrize(
    ("module", "arguments", "named"),
    [
        (replay, ["--rows", "0"], "rows"),
        (replay, ["--minutes", "nan"], "minutes"),
        (environments, ["--task", "walker_wlk"], "walker_walk"),
        (environments, ["--task", "counting"], "task"),
        (environments, ["--workers", "1"], "workers"),
        (startup, ["--repeats", "0"], "repeats"),
        (startup, ["--json", "/no/such/folder/out.json"], "json"),
    ],
)
def test_bad_input_is_one_line_and_status_2(capsys, module, arguments, named):
    assert module.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
