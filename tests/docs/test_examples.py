"""The examples run as they are documented, each with a budget of seconds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BUDGETS = {  # file -> arguments that make it short, and what it has to say, the last line last
    "own_environment.py": (["105"], [r"^agent .* of 10$"]),
    "stable_baselines.py": (
        ["--preset", "debug", "--timesteps", "200"],
        [r"over 5 episodes, after (100|200) timesteps$", r"^[1-9]\d* updates in 200 timesteps$"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETS)
def test_example(name, tmp_path):
    arguments, expected = BUDGETS[name]
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for line, pattern in zip(result.stdout.splitlines()[-len(expected) :], expected, strict=True):
        assert re.search(pattern, line), line
    for metrics in tmp_path.rglob("metrics.jsonl"):  # of a Trainer's run: it has learned too
        assert json.loads(metrics.read_text().splitlines()[-1])["updates"] > 0


@pytest.mark.slow
def test_random_shooting_plays_in_the_world_model_of_a_run(tmp_path):
    run_agent = EXAMPLES.parent / "run_agent.py"
    train = ["train", "--preset=debug", "--task=reaching", "--env_frames=110", "--quiet", "--logdir=run"]
    for command in ([run_agent, *train], [EXAMPLES / "random_shooting.py", "run"]):
        arguments = [sys.executable, *map(str, command)]
        result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"reaching: return \d+\.\d by random shooting in its world model\n", result.stdout)


def test_the_example_of_an_own_environment_is_short():
    text = (EXAMPLES / "own_environment.py").read_text().split('"""', 2)[2]  # without the module's docstring
    code = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(code) <= 30
