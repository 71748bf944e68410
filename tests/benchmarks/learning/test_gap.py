"""benchmarks.learning.gap: files of `evaluate` on a task and on its distracting variant become a table."""

import json

import numpy as np
import pytest

from benchmarks.learning.gap import compare, main
from run_agent import main as run_agent

RANDOM = np.random.default_rng(0)


def write(path, task, trained_on, returns, repeat=2):
    scores = {"returns": list(returns), "action_repeat": repeat, "render": "fast"}
    path.write_text(json.dumps({"task": task, "trained_on": trained_on, "deterministic": scores}))
    return str(path)


def rows(tmp_path, *files):
    assert main([*files, f"--json={tmp_path / 'gap.json'}"]) == 0
    return json.loads((tmp_path / "gap.json").read_text())["results"]


def test_one_agent_on_both_tasks_and_one_agent_of_each(tmp_path, capsys):
    clean = write(tmp_path / "a.json", "walker_walk", "walker_walk", [900, 950, 1000])
    moved = write(tmp_path / "b.json", "walker_walk-distract", "walker_walk", [100, 150, 200])
    other = write(tmp_path / "c.json", "walker_walk-distract", "walker_walk-distract", [600, 650, 700])
    found = rows(tmp_path, clean, moved, other)
    assert [row["learned"] for row in found] == ["clean", "each its own"]
    assert [row["gap"][0] for row in found] == [800, 300]
    assert [row["over"] for row in found] == ["episodes", "episodes"]
    assert 700 < found[0]["gap"][1] < 800 < found[0]["gap"][2] < 900
    [line] = [line for line in capsys.readouterr().out.splitlines() if "each its own" in line]
    assert [cell.strip() for cell in line.split("│")[1:4]] == ["walker_walk", "2, fast", "each its own"]


def test_several_agents_are_compared_as_agents(tmp_path):
    def side(name, task, means):
        return [write(tmp_path / f"{name}{i}.json", task, task, mean + RANDOM.normal(size=5)) for i, mean in means]

    clean = side("a", "walker_walk", enumerate((500, 600, 700)))
    moved = side("b", "walker_walk-distract", enumerate((300, 400, 500)))
    [row] = rows(tmp_path, *clean, *moved)
    assert row["over"] == "agents"
    assert row["agents"] == [3, 3]
    assert row["gap"][0] == pytest.approx(200, abs=2)
    assert row["gap"][2] - row["gap"][1] > 100  # the spread of the agents, not that of their episodes


def test_the_gaps_interval_is_that_of_two_independent_means():
    clean, moved = RANDOM.normal(500, 50, 60), RANDOM.normal(300, 100, 60)
    low, high = compare([clean], [moved])["gap"][1:]
    half = 1.96 * np.sqrt(clean.var() / 60 + moved.var() / 60)
    difference = clean.mean() - moved.mean()
    np.testing.assert_allclose([low, high], [difference - half, difference + half], atol=0.15 * half)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (("walker_walk", "walker_walk", 2), "on one side only"),
        (("cheetah_run-distract", "cheetah_run-distract", 2), "on one side only"),
        (("walker_walk-distract", "cheetah_run", 2), "expected the same task"),
        (("walker_walk-distract", "walker_walk", 4), "on one side only"),  # another protocol
        (None, "is no file of `run_agent.py evaluate`"),
    ],
)
def test_files_that_do_not_compare_are_one_line(tmp_path, capsys, second, expected):
    files = [write(tmp_path / "a.json", "walker_walk", "walker_walk", [1.0, 2.0])]
    path = tmp_path / "b.json"
    path.write_text("{}")
    if second is not None:
        write(path, second[0], second[1], [1.0, 2.0], second[2])
    assert main([*files, str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line


def test_evaluate_on_another_task_writes_a_file_of_its_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["evaluate", "--agent=ball_in_cup_catch", "--episodes=2"]
    assert run_agent([*argv, "--task=ball_in_cup_catch-distract?time_limit=0.3"]) == 0
    out = capsys.readouterr().out
    assert "env_frames of ball_in_cup_catch and" in out
    assert "DreamerV3" not in out
    [path] = tmp_path.iterdir()
    assert path.name == "ball_in_cup_catch-evaluation-ball_in_cup_catch-distract_time_limit_0.3.json"
    clean = write(tmp_path / "clean.json", "ball_in_cup_catch", "ball_in_cup_catch", [900, 950], repeat=4)
    [row] = rows(tmp_path, clean, str(path))
    assert row["learned"] == "clean"
    assert row["episodes"] == [2, 2]
    assert run_agent([*argv, "--task=cartpole_swingup"]) == 2
    assert "expected Box(-1.0, 1.0, (2,), float32) as in ball_in_cup_catch" in capsys.readouterr().err
