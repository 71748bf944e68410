"""probes: what the context adds, and the command on a small run."""

import json
import math

import pytest
import torch

from agent.report.probes import resamples
from benchmarks.learning import probes

COUNTS = resamples(8, 0)  # of the eight judged episodes of sixteen


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_context_is_credited_with_what_the_carry_does_not_predict():
    z = noise(16, 60, 2)
    context = z.roll(-1, 1)  # the next latent, and of no later one anything
    found = probes.context_figures({"z": z, "g": noise(16, 60, 3, seed=1), "c": context}, noise(16, 60, 1), COUNTS)
    assert set(found["gain"]) == {f"{known} a, +{k}" for known in ("g", "z g") for k in (1, 5, 15)}
    for known in ("g", "z g"):
        assert found["without c"][f"{known} a, +1"]["value"] == pytest.approx(0, abs=0.05)
        assert found["with c"][f"{known} a, +1"]["value"] == pytest.approx(1, abs=0.01)
        assert found["gain"][f"{known} a, +1"]["low"] > 0.9
        assert found["gain"][f"{known} a, +5"]["value"] == pytest.approx(0, abs=0.05)


def test_the_command_tells_the_same_figures_twice(finished_run, tmp_path, capsys):
    reports = []
    for name in ("a.json", "b.json"):
        assert probes.main([str(finished_run), "--episodes", "4", "--json", str(tmp_path / name)]) == 0
        reports.append(json.loads((tmp_path / name).read_text()))
    printed = capsys.readouterr().out
    assert "R² beyond z g" in printed
    assert "next 5 rewards" in printed
    assert {part: reports[0][part] for part in ("run", "state", "mixture", "context")} == {
        part: reports[1][part] for part in ("run", "state", "mixture", "context")
    }
    assert reports[0]["run"]["return"] == 55.0  # 1 + 2 + ... + 10
    assert reports[0]["state"]["r2"]["frame"]["step"]["value"] > 0.95  # the brightness of half the frame
    # sums of five rewards: 15, 20, ..., 40, six different ones; the four bins are equally full but for ties
    found = reports[0]["mixture"]["information"]["next 5 rewards"]
    assert math.log(4) - 0.1 < found["entropy of bins"] <= math.log(4)


@pytest.mark.parametrize(
    ("options", "line"), [(["--episodes", "3"], "episodes: got 3, expected at least 4"), ([], "nowhere")]
)
def test_bad_input_is_one_line(tmp_path, options, line, capsys):
    assert probes.main([str(tmp_path / "nowhere"), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error
