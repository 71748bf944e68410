"""evaluate and record through the command line: what they print, write and refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import count_frames_and_secs

from agent.evaluation.episodes import Evaluation
from run_agent import main


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of the debug preset that has learned a little of nothing."""
    logdir = tmp_path_factory.mktemp("runs") / "reaching"
    settings = ["--env_frames=110", "--train.video_frames=0", "--env.num_envs=1", "--quiet"]
    assert main(["train", "--preset=debug", "--task=reaching", f"--logdir={logdir}", *settings]) == 0
    return logdir


def test_evaluate_prints_and_writes_the_same_figures(capsys, run, tmp_path):
    path = tmp_path / "deep" / "out.json"
    assert main(["evaluate", f"--logdir={run}", "--episodes=4", "--seed=7", f"--json={path}", "--latex"]) == 0
    out = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert (found["task"], found["env_frames"], found["references"]) == ("reaching", 110, [])
    assert "reaching after 110 env_frames and" in out
    for name, mode in (("deterministic",) * 2, ("sample",) * 2, ("random",) * 2):
        figures = found[name]
        assert set(figures) == set(Evaluation.__dataclass_fields__)
        assert (figures["mode"], figures["seeds"], figures["lengths"]) == (mode, [7, 8, 9, 10], [25] * 4)
        returns = np.array(figures["returns"])
        assert figures["mean"] == pytest.approx(returns.mean())
        assert figures["iqm"] == pytest.approx(np.sort(returns)[1:3].mean())
        assert (figures["lowest"], figures["highest"]) == (returns.min(), returns.max())
        assert returns.min() <= figures["interval_low"] <= figures["mean"] <= figures["interval_high"] <= returns.max()
        [line] = [line for line in out.splitlines() if line.startswith(f"{name} ")]
        assert f"{figures['mean']:.2f}" in line
        assert f"[{figures['iqm_low']:.2f}, {figures['iqm_high']:.2f}]" in line
    [paper] = [line for line in out.splitlines() if line.startswith("reaching & ")]
    assert paper.count("&") == 3


def test_published_scores_stand_beside_a_suite_task(capsys, run, tmp_path, monkeypatch):
    monkeypatch.setattr("agent.evaluation.references.nearest_references", lambda task, env_frames: scores)
    from agent.evaluation.references import Reference

    scores = [Reference("Alike", "reaching", 105, 9.0, 1.0, 3, 1, "a source")]
    assert main(["evaluate", f"--logdir={run}", "--episodes=1", f"--json={tmp_path / 'a.json'}", "--latex"]) == 0
    out = capsys.readouterr().out
    assert ["Alike", "9.00", "1.00", "3", "105", "1", "as", "ours"] in [line.split() for line in out.splitlines()]
    [paper] = [line for line in out.splitlines() if line.startswith("reaching & ")]
    assert paper.endswith(r" & 9.0 \\")
    [written] = json.loads((tmp_path / "a.json").read_text())["references"]
    assert written["source"] == "a source"


def test_a_run_is_evaluated_and_recorded_by_planning(capsys, run, tmp_path):
    path = tmp_path / "a.json"
    options = ["--episodes=1", "--planner=mppi", "--planner.candidates=16", "--planner.iterations=2"]
    assert main(["evaluate", f"--logdir={run}", f"--json={path}", *options]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("planner mppi (")]
    assert "candidates 16" in line
    planned = json.loads(path.read_text())
    assert planned["planner"]["settings"]["candidates"] == 16
    assert planned["planner"]["ms_per_decision"] > 0
    assert main(["evaluate", f"--logdir={run}", f"--json={path}", "--overwrite", "--episodes=1"]) == 0
    alone = json.loads(path.read_text())
    assert alone["planner"] is None
    assert alone["deterministic"]["returns"] != planned["deterministic"]["returns"]
    assert main(["record", f"--logdir={run}", f"--out={tmp_path / 'a.gif'}", *options[1:]]) == 0
    [shown] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("return ")]
    assert float(shown.split()[1]) == pytest.approx(planned["deterministic"]["returns"][0], abs=0.01)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--planner=mpc"], "planner: invalid choice: 'mpc'"),
        (["--planner.horizon=5"], "planner.horizon: got a value, but nothing plans; expected --planner mppi with it"),
        (["--planner=mppi", "--planner.horizon=0"], "planner.horizon: got 0, expected a positive number"),
        (["--planner=mppi", "--planner.elites=99"], "planner.elites, candidates: got (99, 64), expected at most"),
        (["--planner=mppi", "--planner.horizn=9"], "the nearest known one is 'planner.horizon'"),
    ],
)
def test_a_planner_that_cannot_be_is_one_line(capsys, run, options, expected):
    assert main(["evaluate", f"--logdir={run}", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert expected in line


def test_imagine_says_how_many_steps_are_compared(capsys, run, tmp_path):
    options = ["--imagine", "--context=21", "--horizon=50", "--dreams=2", f"--out={tmp_path / 'a.mp4'}"]
    assert main(["record", f"--logdir={run}", *options]) == 0
    assert capsys.readouterr().out.startswith("sum of 5 rewards (of 50: the episode ended): real ")


@pytest.mark.parametrize(("command", "name"), [("evaluate", "json"), ("record", "out")])
def test_a_file_that_the_user_names_is_replaced_only_where_he_says_so(capsys, run, tmp_path, command, name):
    path = tmp_path / "a.json.mp4"
    path.write_text("precious")
    argv = [command, f"--logdir={run}", "--episodes=1", f"--{name}={path}"]
    assert main(argv) == 2
    assert f"{name}: got '{path}', which exists, expected a new name (or --overwrite)" in capsys.readouterr().err
    assert path.read_text() == "precious"
    assert main([*argv, "--overwrite"]) == 0
    assert f"written to {path}, replacing the previous one" in capsys.readouterr().out
    assert path.read_bytes() != b"precious"


def test_a_file_without_a_name_of_the_users_is_replaced_with_a_word(capsys, run):
    (run / "evaluation.json").unlink(missing_ok=True)
    for ending in ("evaluation.json", "evaluation.json, replacing the previous one"):
        assert main(["evaluate", f"--logdir={run}", "--episodes=1"]) == 0
        assert capsys.readouterr().out.endswith(f"{ending}\n")


@pytest.mark.parametrize(
    ("options", "name", "frames"),
    [
        ([], "record.mp4", 26),
        (["--episodes=2", "--size=48", "--width=31", "--captions", "--mode=sample"], "record.mp4", 52),
        (["--episodes=3", "--grid", "--size=33", "--no-captions"], "record.mp4", 26),
        (["--dream", "--context=9"], "dream.mp4", 26),
        (["--imagine", "--context=3", "--horizon=4", "--dreams=1"], "imagine.mp4", 7),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_record_writes_a_video(capsys, run, options, name, frames):
    assert main(["record", f"--logdir={run}", *options]) == 0
    path = run / "videos" / name
    assert f"written to {path}" in capsys.readouterr().out
    assert count_frames_and_secs(path)[0] == frames


def test_imagine_says_what_was_dreamt(capsys, run, tmp_path):
    assert main(["record", f"--logdir={run}", "--imagine", "--horizon=6", f"--out={tmp_path / 'a.gif'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sum of 6 rewards: real ")
    assert "8 dreams: mean " in lines[1]
    assert (tmp_path / "a.gif").stat().st_size > 1000


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["record", "--out=/proc/none/video.mp4"], "out: got '/proc/none', but '/proc' is not writable"),
        (["record", "--out=video.mov"], "out: got 'video.mov', expected a name ending in .mp4 or .gif"),
        (["record", "--out={folder}"], "a folder, expected the name of a file"),
        (["record", "--out={file}/a.mp4"], "is a file, expected a folder"),
        (["record", "--dream", "--imagine"], "expected one of them"),
        (["record", "--dream", "--episodes=2"], "episodes: got 2, which this kind of video does not take"),
        (["record", "--imagine", "--grid"], "grid: got True"),
        (["record", "--context=3"], "context: got 3"),
        (["record", "--size=0"], "size: got 0, expected at least 16"),
        (["record", "--size=-3"], "size: got -3"),
        (["record", "--size=100000"], "size: got 100000, expected at most 4096"),
        (["record", "--grid", "--episodes=65", "--size=512"], "episodes: got 65 in a grid, expected at most 64 of 512"),
        (["record", "--imagine", "--dreams=1001"], "dreams: got 1001, expected at most 1000"),
        (["record", "--width=3"], "width: got 3"),
        (["record", "--size=big"], "big"),
        (["record", "--mode=greedy"], "greedy"),
        (["record", "--episodes=0"], "episodes: got 0"),
        (["record", "--imagine", "--dreams=0"], "dreams: got 0"),
        (["record", "--dream", "--context=0"], "context: got 0, expected at least 1"),
        (["evaluate", "--json={folder}"], "a folder, expected the name of a file"),
        (["evaluate", "--json=/proc/none/a.json"], "'/proc' is not writable"),
        (["evaluate", "--episodes=-1"], "episodes: got -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_changes_nothing(capsys, run, tmp_path, argv, expected):
    folder, file = tmp_path / "folder.mp4", tmp_path / "file"
    folder.mkdir()
    file.write_text("kept")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    command = [argument.format(folder=folder, file=file) for argument in argv]
    assert main([*command, f"--logdir={run}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("run_agent.py: error: ")
    assert error.count("\n") == 1
    assert expected in error
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert file.read_text() == "kept"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_a_folder_without_a_run_is_one_line(capsys, tmp_path, command):
    assert main([command, f"--logdir={tmp_path}"]) == 2
    assert "no config.yaml in it" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_context_longer_than_the_episode_keeps_the_old_video(capsys, run):
    path = run / "videos" / "dream.mp4"
    path.parent.mkdir(exist_ok=True)
    path.write_text("old")
    for kind in ("--dream", "--imagine"):
        assert main(["record", f"--logdir={run}", kind, "--context=26", f"--out={path}", "--overwrite"]) == 2
        assert "context: got 26, expected 1 to 25" in capsys.readouterr().err
    assert path.read_text() == "old"
    path.unlink()


def test_what_an_agent_does_on_another_task_has_that_task_in_its_name(run):
    command = [f"--logdir={run}", "--task=reaching?axes=1", "--episodes=1"]
    assert main(["record", *command]) == 0
    assert main(["evaluate", *command]) == 0
    assert (run / "videos" / "record-reaching_axes_1.mp4").is_file()
    found = json.loads((run / "evaluation-reaching_axes_1.json").read_text())
    assert (found["task"], found["trained_on"]) == ("reaching?axes=1", "reaching")
