"""timeline: figures are per update, kernels are kept apart from operations, bad input is one line."""

import gzip
import json
from types import SimpleNamespace
from typing import Any

import pytest
from torch.autograd import DeviceType

from benchmarks.speed import timeline

TINY = ["--preset", "debug", "--threads", "1", "--rows", "1000"]


def event(key: str, count: int, host: float, device: float, **more: Any) -> SimpleNamespace:
    """What the profiler's averages hold of an operation, in microseconds."""
    found = {"key": key, "count": count, "self_cpu_time_total": host, "self_device_time_total": device}
    return SimpleNamespace(**found | {"device_type": DeviceType.CPU, "is_user_annotation": False} | more)


def test_kernels_are_kept_apart_and_spans_over_them_are_left_out():
    events = [
        event("aten::mm", 4, 3000, 8000),
        event("aten::add", 8, 9000, 1000),
        event("aten::view", 8, 20000, 0),
        event("gemm", 4, 0, 8000, device_type=DeviceType.CUDA),
        event("Optimizer.step", 2, 0, 9000, device_type=DeviceType.CUDA, is_user_annotation=True),
        event("elementwise", 8, 0, 1000, device_type=DeviceType.CUDA),
    ]
    operations, kernels = timeline.event_rows(events, updates=2)
    assert operations == [
        {"name": "aten::view", "calls": 4.0, "host_ms": 10.0, "gpu_ms": 0.0},
        {"name": "aten::mm", "calls": 2.0, "host_ms": 1.5, "gpu_ms": 4.0},
        {"name": "aten::add", "calls": 4.0, "host_ms": 4.5, "gpu_ms": 0.5},
    ]
    assert kernels == [
        {"name": "gemm", "calls": 2.0, "gpu_ms": 4.0},
        {"name": "elementwise", "calls": 4.0, "gpu_ms": 0.5},
    ]


def test_figures_are_per_update(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(timeline, "REPEATS", 1)
    monkeypatch.setattr(timeline, "WARM_UP", 0)
    reports = {}
    trace = ["--trace", str(tmp_path / "trace.json.gz")]
    for updates, more in (("1", trace), ("2", [])):
        files = ["--json", str(tmp_path / "out.json"), *more]
        assert timeline.main([*TINY, "--device", "cpu", "--updates", updates, *files]) == 0
        reports[updates] = json.loads((tmp_path / "out.json").read_text())
        assert reports[updates]["kernels"] == []
    steps = [
        {row["name"]: row["calls"] for row in report["operations"]}["aten::_fused_adam_"] for report in reports.values()
    ]
    assert steps[0] == steps[1] >= 2  # of the model and of actor and critic, in any update
    assert all(report["results"]["operations"] > 1000 for report in reports.values())
    with gzip.open(tmp_path / "trace.json.gz") as file:
        assert any(found["name"] == "aten::_fused_adam_" for found in json.load(file)["traceEvents"])
    printed = capsys.readouterr().out
    assert "preset debug on cpu" in printed
    assert "aten::_fused_adam_" in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--updates", "3"], "updates: got 3, expected 1 to 2"),
        (["--updates", "0"], "updates"),
        (["--rows", "0"], "rows"),
        (["--device", "cuda:x"], "device"),
        (["--precision", "float16"], "precision"),
        (["--trace", "/no/such/folder/trace.json"], "trace"),
    ],
)
def test_bad_input_of_timeline_is_one_line_and_status_2(capsys, arguments, named):
    assert timeline.main([*TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
