"""The examples run as they are documented, each with a budget of seconds."""

import json
import re
import runpy
from pathlib import Path

import pytest

import run_agent

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BUDGETS = {  # file -> arguments that make it short, and what it has to say, the last line last
    "own_environment.py": (["105"], [r"^agent .* of 10$"]),
    "stable_baselines.py": (
        ["--preset", "debug", "--timesteps", "200"],
        [r"over 5 episodes, after (100|200) timesteps$", r"^[1-9]\d* updates in 200 timesteps$"],
    ),
}


@pytest.fixture
def play(tmp_path, monkeypatch, capsys):
    """Runs an example as a script in an empty folder; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr("sys.argv", [name, *arguments])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", BUDGETS)
def test_example(name, tmp_path, play):
    arguments, expected = BUDGETS[name]
    for line, pattern in zip(play(name, *arguments).splitlines()[-len(expected) :], expected, strict=True):
        assert re.search(pattern, line), line
    for metrics in tmp_path.rglob("metrics.jsonl"):  # of a Trainer's run: it has learned too
        assert json.loads(metrics.read_text().splitlines()[-1])["updates"] > 0


def test_random_shooting_plays_in_the_world_model_of_a_run(play):
    train = ["train", "--preset=debug", "--task=reaching", "--env_frames=110", "--train.video_frames=0", "--quiet"]
    assert run_agent.main([*train, "--logdir=run"]) == 0
    assert re.fullmatch(
        r"reaching: return \d+\.\d by random shooting in its world model\n", play("random_shooting.py", "run")
    )


def test_the_example_of_an_own_environment_is_short():
    text = (EXAMPLES / "own_environment.py").read_text().split('"""', 2)[2]  # without the module's docstring
    code = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(code) <= 30
