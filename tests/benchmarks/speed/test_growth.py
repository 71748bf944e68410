"""growth measures every axis it promises and fits the powers that are there. No figure is judged."""

import json
import math

import pytest
import torch
from PIL import Image

from benchmarks.harness.timing import clock
from benchmarks.speed import growth


@pytest.mark.slow
def test_growth_reports_every_axis_and_draws_it(monkeypatch, tmp_path, capsys):
    axes = {"length": [4, 8], "batch": [1, 2], "components": [2, 4], "hidden": [8, 16], "envs": [1, 3]}
    monkeypatch.setattr(growth, "AXES", axes)
    path, picture = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["--preset", "debug", "--threads", "1", "--repeats", "1", "--axes", *axes]
    assert growth.main([*arguments, "--json", str(path), "--picture", str(picture)]) == 0
    report = json.loads(path.read_text())
    assert {name: found["values"] for name, found in report["axes"].items()} == axes
    for found in report["axes"].values():
        assert all(cost > 0 for unit in ("seconds", "gflops") for cost in found[unit])
        for unit in ("seconds", "gflops"):  # two values: the slope between them
            slope = math.log(found[unit][1] / found[unit][0]) / math.log(found["values"][1] / found["values"][0])
            assert found["exponents"][unit] == pytest.approx({"all": slope, "last": slope})
    flops = {name: found["exponents"]["gflops"]["last"] for name, found in report["axes"].items()}
    assert flops["envs"] == pytest.approx(1.0, abs=0.01)  # nothing passes between environments
    assert 0.5 < flops["batch"] < 1.05
    assert flops["hidden"] < 2
    with Image.open(picture) as image:
        assert image.size == (growth.PANEL * len(axes), growth.PANEL)
        assert len(image.convert("RGB").getcolors(1 << 16)) > 3
    printed = capsys.readouterr().out
    assert all(name in printed for name in axes)


def test_exponent_is_the_power_of_a_power_law():
    values = [2, 4, 8, 16]
    assert growth.exponent(values, [3 * value**1.5 for value in values]) == pytest.approx(1.5)
    assert growth.exponent(values, [7.0] * 4) == pytest.approx(0.0)


@pytest.mark.parametrize(("threads", "counts_sleep"), [(1, False), (2, True)])
def test_one_thread_on_a_cpu_is_timed_by_its_own_processor_time(monkeypatch, threads, counts_sleep):
    """A process that only waits spends wall-clock time, and none of the processor's."""
    wall, own = [0.0], [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: wall[0])
    monkeypatch.setattr("time.process_time", lambda: own[0])
    now = clock(torch.device("cpu"), threads)
    before = now()
    wall[0] += 2.0
    assert now() - before == (2000.0 if counts_sleep else 0.0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "cpuu"], "cpu"),
        (["--threads", "0"], "threads"),
        (["--repeats", "0"], "repeats"),
        (["--json", "/no/such/folder/out.json"], "json"),
        (["--picture", "/no/such/folder/out.png"], "picture"),
    ],
)
def test_bad_input_of_growth_is_one_line_and_status_2(capsys, arguments, named):
    assert growth.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
