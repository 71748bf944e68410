"""first_gpu_run.sh: bad input is one line, stages that fail do not stop the others, a run is resumed from its tar."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "first_gpu_run.sh"
SMALL = {"DEVICE": "cpu", "PRESET": "debug", "TASK": "counting", "OMP_NUM_THREADS": "1"}


def call(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script, its results in a folder and its run in another one below it."""
    environment = os.environ | {"PYTHON": sys.executable, "WORK": str(folder / "work")} | variables
    command = ["bash", str(SCRIPT), str(folder / "results")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"STAGES": "tests eagre"}, "STAGES: got 'eagre'"),
        ({"MINUTES": "0"}, "MINUTES: got '0'"),
        ({"MINUTES": "1.5"}, "MINUTES: got '1.5'"),
        ({"WHEELS": "/no/such/folder"}, "WHEELS: got '/no/such/folder'"),
        ({"RUN": "/no/such/run.tar"}, "RUN: got '/no/such/run.tar'"),
        ({"PYTHON": "pythonn"}, "PYTHON: got 'pythonn'"),
        ({"DEVICE": "cuda"}, "finds no GPU"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, variables, said):
    if variables == {"DEVICE": "cuda"} and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = call(tmp_path, **SMALL | variables)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results").exists()


def test_a_stage_that_fails_is_one_line_and_the_next_one_runs(tmp_path):
    done = call(tmp_path, **SMALL | {"PRESET": "debgu", "STAGES": "eager peers timeline"})
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["peers", "eager", "timeline", "results"]
    assert lines[0] == "peers: left out, since no R2DREAMER is given"
    for line in lines[1:3]:
        assert "failed with exit status 2: python -m benchmarks.speed" in line
        assert "debug" in line  # the nearest known one


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_goes_from_one_call_to_the_next(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    done = call(first, **SMALL | {"STAGES": "timeline train", "MINUTES": "10"})
    assert done.returncode == 0, done.stdout
    files = {path.name for path in (first / "results").rglob("*")}
    assert files == {"log.txt", "gpu_timeline.json", "gpu_trace.json.gz", "run.tar"}
    assert json.loads((first / "results" / "gpu_timeline.json").read_text())["settings"]["device"] == "cpu"

    done = call(second, **SMALL | {"STAGES": "train", "MINUTES": "4", "RUN": str(first / "results" / "run.tar")})
    assert done.returncode == 0, done.stdout
    log = (second / "results" / "log.txt").read_text()
    assert re.search(r"resuming \S+counting-debug at|all 400 env_frames are spent", log)
