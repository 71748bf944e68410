"""The benchmark commands run and report what they promise. No figure is judged."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
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


@pytest.fixture
def throughput(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))  # as python does for the script's own folder
    return importlib.import_module("throughput")


@pytest.fixture
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("keep_threads")
def test_throughput_reports_every_figure(throughput, tmp_path, capsys):
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


def test_rate_is_the_median_of_slices(throughput, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    durations = iter([9.0, *[1.0] * 2, *[4.0], *[1.0] * 2, *[0.5] * 4, *[2.0]])  # a warm-up, then slices of 2 seconds

    def work() -> int:
        now[0] += next(durations)
        return 3

    # slices: 2 x 3 in 2 s, 3 in 4 s, 2 x 3 in 2 s, 4 x 3 in 2 s, 3 in 2 s -> rates 3, .75, 3, 6, 1.5
    assert throughput.median_rate(work, seconds=10.0) == pytest.approx(3.0)


def test_replay_is_full_of_legal_episodes(throughput):
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
@pytest.mark.usefixtures("keep_threads")
def test_bad_input_is_one_line_and_status_2(throughput, capsys, arguments, named):
    assert throughput.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
