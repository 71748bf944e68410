"""runs trains by stages, resumes where it was, and the table holds the right figures."""

import json
from pathlib import Path
from typing import Any

import pytest

import run_agent
from agent.evaluation.references import REFERENCE_FILE, load_references
from agent.training.trainer import Trainer
from benchmarks.learning import published, runs, table
from benchmarks.learning.results import ARMS, load_result

RUN = ["--tasks", "counting", "--preset", "debug", "--threads", "1"]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch):
    """Commands of `runs` run in this process: no imports again."""
    monkeypatch.setattr(runs, "call", lambda command, _: run_agent.main(command[1:]))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch):
    """The same with two episodes at a stage, for tests of how runs are trained."""

    def call(command: list[str], _: int) -> None:
        run_agent.main([word.replace("--episodes=10", "--episodes=2") for word in command[1:]])

    monkeypatch.setattr(runs, "call", call)


@pytest.fixture
def here(tmp_path: Path) -> list[str]:
    """Options that keep a run inside tmp_path."""
    return ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]


def result_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "results" / f"{name}.json").read_text())


def hand_made(folder: Path, seed: int, **changes: Any) -> None:
    """Write a result file: cartpole_swingup with the cpu preset, one stage at 100k."""
    played = {"mean": 0.0, "std": 1.0, "returns": [0.0]}
    stage = {"env_frames": 100_000, "updates": 7200, "wall_seconds": 3600.0}
    stage |= {"deterministic": played | {"mean": 600.0 + 100 * seed}, "sampled": played, "random": played}
    result = {
        "task": "cartpole_swingup",
        "preset": "cpu",
        "name": "cpu",
        "arm": "aime",
        "overrides": {},
        "seed": seed,
        "config": {
            "env": {"action_repeat": 8, "render": "fast"},
            "train": {"train_ratio": 128},
            "replay": {"batch_size": 8, "batch_length": 16},
        },
        "machine": {"cpu": "a processor, load 1.0", "commit": "0123456"},
        "wall_seconds": 3600.0,
        "status": "finished",
        "stages": [stage],
        "training": [[100_000, 300.0]],
        "evaluations": [[100_000, 500.0]],
    } | changes
    folder.mkdir(exist_ok=True)
    name = f"{result['task']}-{result['name']}-s{seed}"
    (folder / f"{name}.json").write_text(json.dumps(result))


def rows_of(markdown: str) -> list[dict[str, str]]:
    """The rows of the markdown tables in a text."""
    rows: list[dict[str, str]] = []
    columns: list[str] | None = None
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells:
            columns = None
        elif columns is None:
            columns = cells
        elif cells[0] != "---":
            rows.append(dict(zip(columns, cells, strict=True)))
    return rows


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_a_run_is_trained_by_stages_and_goes_on(tmp_path, here, capfd):
    arguments = [*RUN, *here, "--name", "mini", "--set", "train.video_frames=0", "--stages"]
    assert runs.main([*arguments, "200"]) == 0
    first = result_of(tmp_path, "counting-mini-s0")
    assert first["status"] == "finished"
    assert [stage["env_frames"] for stage in first["stages"]] == [200]
    assert runs.main([*arguments, "200", "400"]) == 0
    assert "resuming" in capfd.readouterr().out
    second = result_of(tmp_path, "counting-mini-s0")
    assert second["status"] == "finished"
    assert second["stages"][0] == first["stages"][0]  # skipped, not done again
    # An episode has 10 frames and returns 1 + ... + 10; after 100 frames come batches of 2 x 8 at train ratio 2.
    assert [stage["env_frames"] for stage in second["stages"]] == [200, 400]
    assert second["stages"][1]["updates"] == pytest.approx((400 - 100) * 2 / 16, abs=1)
    assert second["stages"][1]["wall_seconds"] > first["stages"][0]["wall_seconds"]
    for mode in ("deterministic", "sampled", "random"):
        assert second["stages"][1][mode] == {"mean": 55.0, "std": 0.0, "returns": [55.0] * 10}
    assert second["training"] == [[frames, 55.0] for frames in range(20, 401, 20) for _ in range(2)]
    assert second["evaluations"] == [[200, 55.0], [400, 55.0]]
    assert second["overrides"] == {"train.video_frames": "0"}
    assert (second["config"]["env_frames"], second["config"]["train"]["video_frames"]) == (400, 0)
    assert second["wall_seconds"] == second["stages"][1]["wall_seconds"]

    path = tmp_path / "results" / "counting-mini-s0.json"
    before = path.stat().st_mtime_ns
    assert runs.main([*arguments, "400", "200"]) == 0  # all is there: nothing is started
    assert runs.main([*arguments, "100", "200"]) == 0  # too late for a stage at 100
    assert "left out" in capfd.readouterr().out
    assert path.stat().st_mtime_ns == before
    assert runs.main([*RUN, *here, "--name", "mini", "--stages", "400"]) == 2  # without its --set it is another one
    assert "another train.video_frames; choose another --name" in capfd.readouterr().err
    assert runs.main([*arguments, "600", "--runs", str(tmp_path / "elsewhere")]) == 2  # the file's run is not there
    assert "other --results" in capfd.readouterr().err
    assert path.stat().st_mtime_ns == before


@pytest.mark.usefixtures("quick")
def test_sac_stops_at_the_limit_and_goes_on(tmp_path, here):
    options = ["--arms", "sac", "--name", "quick", "--set", "sac.batch_size=4", "train.eval_episodes=1", "--stages"]
    arguments = [*RUN, *here, *options]
    assert runs.main([*arguments, "104", "--max_minutes", "1e-9"]) == 0
    stopped = result_of(tmp_path, "counting-quick-sac-s0")
    assert stopped["status"] == "stopped: wall-clock limit at 0 env_frames"
    assert stopped["stages"] == []
    assert runs.main([*arguments, "104"]) == 0
    assert runs.main([*arguments, "104", "108"]) == 0
    result = result_of(tmp_path, "counting-quick-sac-s0")
    assert result["status"] == "finished"
    # One update an agent step after 100 of prefill.
    assert [(stage["env_frames"], stage["updates"]) for stage in result["stages"]] == [(104, 4), (108, 8)]
    assert result["stages"][1]["deterministic"] == {"mean": 55.0, "std": 0.0, "returns": [55.0] * 2}
    assert result["training"] == [[frames, 55.0] for frames in range(20, 101, 20) for _ in range(2)]
    assert (result["config"]["algo"], result["config"]["sac"]["batch_size"]) == ("sac", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_final_updates_come_at_the_last_stage_alone_and_are_made_up_for(tmp_path, here, monkeypatch):
    options = ["--name", "mini", "--set", "train.video_frames=0", "train.final_updates=9", "--stages", "200", "304"]
    arguments = [*RUN, *here, *options]
    plain = [(200 - 100) * 2 // 16, (304 - 100) * 2 // 16]  # 2 trained frames a decision, batches of 2 x 8
    update = Trainer._update

    def stop_among_them(trainer: Trainer) -> None:
        update(trainer)
        if trainer.agent.updates == plain[1] + 4:
            trainer.stop_reason = "tired"

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", stop_among_them)
        assert runs.main(arguments) == 0
    stopped = result_of(tmp_path, "counting-mini-s0")
    assert [(stage["env_frames"], stage["updates"]) for stage in stopped["stages"]] == [(200, plain[0])]
    assert stopped["status"] == "stopped: signal at 304 env_frames"
    assert runs.main(arguments) == 0
    result = result_of(tmp_path, "counting-mini-s0")
    assert [stage["updates"] for stage in result["stages"]] == [plain[0], plain[1] + 9]
    assert result["status"] == "finished"


def test_a_run_that_fails_is_recorded_and_the_next_one_starts(tmp_path, here, capsys, monkeypatch):
    with pytest.raises(RuntimeError, match=r"^two$"):
        runs.call(["-c", r"import sys; sys.exit('one\ntwo')"], 1)
    runs.call([str(runs.PROGRAM), "--version"], 1)
    with pytest.raises(RuntimeError, match="SIGKILL"):
        runs.call(["-c", "import os; os.kill(os.getpid(), 9)"], 1)

    def fail(command: list[str], threads: int) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(runs, "call", fail)
    assert runs.main([*RUN, *here, "--seeds", "0", "1", "--stages", "200"]) == 1
    for seed in (0, 1):
        assert result_of(tmp_path, f"counting-debug-s{seed}")["status"] == "failed: out of luck"
    assert table.main([*here[2:]]) == 0
    [row] = rows_of(capsys.readouterr().out)
    assert row["ended"] == "seed 0 failed: out of luck; seed 1 failed: out of luck"


def test_all_tasks_together_beside_the_control_and_published_scores(tmp_path, capsys):
    folder = tmp_path / "in"
    plain = {"name": "cpu-plain", "arm": "plain", "overrides": ARMS["plain"]}
    for task, repeat, lead in (("cartpole_swingup", 8, 100.0), ("walker_walk", 2, 300.0)):
        for seed in (0, 1):
            hand_made(folder, seed, task=task, config=None)
            result = json.loads((folder / f"{task}-cpu-s{seed}.json").read_text())
            result["config"] = {"env": {"action_repeat": repeat, "render": "fast"}} | {
                "train": {"train_ratio": 16 * repeat},
                "replay": {"batch_size": 8, "batch_length": 16},
            }
            (folder / f"{task}-cpu-s{seed}.json").write_text(json.dumps(result))
            result |= plain
            result["stages"][0]["deterministic"]["mean"] -= lead  # of runs at 600 and 700
            (folder / f"{task}-cpu-plain-s{seed}.json").write_text(json.dumps(result))
    hand_made(folder, 0, task="finger_spin", **plain)  # a task that the whole agent has not
    assert table.main(["--results", str(folder)]) == 0
    printed = capsys.readouterr().out.partition("### All tasks together, 100k")[2]
    whole, control, *published = rows_of(printed)
    assert (whole["configuration"], whole["tasks"], whole["runs"]) == ("cpu", "2", "4")
    assert whole["mean"] == whole["IQM"] == "650 [600, 700]"
    assert (control["configuration"], control["tasks"], control["mean"]) == ("cpu-plain", "2", "450 [400, 500]")
    assert control["lead"].startswith("+200 [")
    # cartpole_swingup: 600 ties with 600 and beats 500, 700 beats both: 3.5 of 4; walker_walk: 4 of 4.
    assert control["P(better)"].startswith("0.94 [")
    scores = {row["configuration"]: row for row in published}
    drq = load_references()["DrQ (PlaNet benchmark, batch 512)", "walker_walk", 100_000].mean
    drq += load_references()["DrQ (PlaNet benchmark, batch 512)", "cartpole_swingup", 100_000].mean
    assert scores["*DrQ (PlaNet benchmark, batch 512)*"]["mean"] == f"{drq / 2:.0f}"
    assert scores["*DrQ (PlaNet benchmark, batch 512)*"]["lead"].startswith(f"{650 - drq / 2:+.0f} [")


def test_the_table_has_means_intervals_and_published_scores(tmp_path, capsys):
    around = [[90_000, 9e9], [90_001, 100.0], [100_000, 200.0], [110_000, 600.0], [110_001, 9e9]]
    hand_made(tmp_path / "in", 0, training=around)
    hand_made(tmp_path / "in", 1)
    summed = {"world_model.use_rgb": "false", "world_model.perceiver_config.enabled": "true"}
    hand_made(tmp_path / "in", 0, name="perceiver-sum", arm="sum", overrides=summed)
    figure, markdown = tmp_path / "out.png", tmp_path / "out.md"
    paths = ["--results", str(tmp_path / "in"), "--figure", str(figure), "--markdown", str(markdown)]
    assert table.main([*paths]) == 0
    text = markdown.read_text()
    assert capsys.readouterr().out == text
    aime, plain, *published = rows_of(text)
    # t(0.975, 1) = 12.706, and std / sqrt(2) of 600 and 700 is 50: 650 -+ 635.3
    assert (aime["runs"], aime["100k deterministic"]) == ("2", "650 [15, 1285]")
    assert (plain["configuration"], plain["settings"]) == ("perceiver-sum", "use_rgb=false, perceiver=true")
    assert plain["100k deterministic"] == "600 (1 seed)"
    assert aime["100k training"] == "300"  # seeds: (100 + 200 + 600) / 3 and 300
    assert (aime["updates/s"], aime["hours"]) == ("2.00", "1.00")
    scores = {row["configuration"]: row for row in published}
    assert scores["*CURL [CURL paper table]*"]["100k deterministic"] == "582 ± 146"
    assert scores["*DreamerV3 (repeat 2, orientation)*"]["100k training"] == "614 ± 152"  # training returns
    assert "*DrQ-v2*" not in scores  # repeat 2
    assert not any(column.startswith(("50k", "250k")) for column in aime)
    assert "not run: plain, k1, perceiver, no_perceiver, attention," in text
    assert "train ratio: 128" in text
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_scores_of_other_action_repeats_are_left_out(tmp_path, capsys):
    config = {"env": {"action_repeat": 2, "render": "fast"}}
    config |= {"train": {"train_ratio": 32}, "replay": {"batch_size": 8, "batch_length": 16}}
    hand_made(tmp_path / "in", 0, name="repeat2", config=config, overrides={"env.action_repeat": "2"})
    hand_made(tmp_path / "in", 0, name="gpu", preset="gpu", config=config)
    assert table.main(["--results", str(tmp_path / "in")]) == 0
    cpu, gpu = (rows_of(part) for part in capsys.readouterr().out.split("## Preset gpu"))
    assert [row["configuration"] for row in cpu] == ["repeat2", "*DreamerV3 (repeat 2, orientation)*"]
    published = {row["configuration"]: row for row in gpu[1:]}
    assert cpu[1]["100k training"] == published["*DreamerV3*"]["100k training"] == "614 ± 152"
    assert published["*DrQ-v2*"]["100k deterministic"] == "626 ± 268"


def test_a_run_that_was_stopped_is_marked_and_scored_only_where_it_came(tmp_path, capsys):
    training = [[45_000, 80.0], [55_000, 120.0], [95_000, 500.0]]
    status = "stopped: wall-clock limit at 96,000 env_frames"
    hand_made(tmp_path / "in", 0, stages=[], training=training, evaluations=[], status=status)
    hand_made(tmp_path / "in", 1)
    hand_made(tmp_path / "in", 2)
    assert table.main(["--results", str(tmp_path / "in")]) == 0
    row = rows_of(capsys.readouterr().out)[0]
    assert row["ended"] == f"seed 0 {status}"
    assert row["env_frames"] == "95,000 to 100,000"
    assert row["50k training"] == "100"
    assert row["100k training"] == "300"  # of seeds 1 and 2
    assert row["100k deterministic"].startswith("750 [")
    assert row["100k deterministic"].endswith("] (2 seeds)")


def test_the_figure_follows_the_runs_that_came_furthest(tmp_path):
    hand_made(tmp_path / "in", 0, evaluations=[[50_000, 100.0], [100_000, 500.0]])
    hand_made(tmp_path / "in", 1, evaluations=[[50_000, 900.0]])
    hand_made(tmp_path / "in", 2, evaluations=[[50_000, 300.0], [100_000, 700.0]])
    group = [load_result(path) for path in sorted((tmp_path / "in").glob("*.json"))]
    curve = table.evaluation_curve(group)
    assert curve.label == "cpu (2 of 3 runs)"
    assert curve.mean.tolist() == [200.0, 600.0]
    assert table.evaluation_curve([group[0]]).label == "cpu (1 run)"
    assert len(table.evaluation_curve([group[0] | {"evaluations": []}]).x) == 0


def test_training_at_a_million_counts_the_last_20k(tmp_path):
    hand_made(tmp_path / "in", 0, training=[[980_000, 9e9], [980_001, 100.0], [1_000_000, 200.0]])
    [path] = (tmp_path / "in").glob("*.json")
    assert table.training_return(load_result(path), 1_000_000) == 150.0


def test_the_copied_scores_are_small_and_hold_each_method():
    assert REFERENCE_FILE.stat().st_size < 60_000
    scores = load_references()
    assert scores["CURL [CURL paper table]", "cartpole_swingup", 100_000].mean == 582.0
    methods = {*published.PLANET_COLUMNS.values(), *published.COLUMNS.values()}
    assert {method for method, _, _ in scores} == methods
    assert {frames for _, _, frames in scores} == set(table.TIMES)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--tasks", "cartpole_swingupp"], "'cartpole_swingup'"),
        (["--arms", "no_percever"], "'no_perceiver'"),
        (["--preset", "cpuu"], "'cpu'"),
        (["--stages", "0"], "stages"),
        (["--preset", "cpu", "--stages", "50", "100"], "stages: got [50, 100], expected one: learning rates fall"),
        (["--threads", "0"], "threads"),
        (["--seeds", "-1"], "seed"),
        (["--max_minutes", "0"], "max_minutes"),
        (["--name", "x", "--set", "replay.batch_siz=4"], "'replay.batch_size'"),
        (["--name", "x", "--set", "replay.batch_size=four"], "four"),
        (["--set", "seed=1"], "set"),
        (["--set", "seed"], "set"),
        (["--set", "replay.batch_size=4"], "name: got none"),
        (["--name", "a/b"], "name: got 'a/b'"),
    ],
)
def test_bad_input_of_run_is_one_line_and_status_2(tmp_path, here, capsys, arguments, named):
    assert runs.main([*RUN, *here, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"task": "counting"}'])
def test_results_that_cannot_be_read_are_one_line_and_status_2(tmp_path, capsys, text):
    (tmp_path / "broken.json").write_text(text)
    assert table.main(["--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "broken.json" in error


@pytest.mark.parametrize("name", ["results", "markdown", "figure"])
def test_bad_input_of_table_is_one_line_and_status_2(tmp_path, capsys, name):
    hand_made(tmp_path / "in", 0)
    paths = {"results": tmp_path / "in", name: tmp_path / "nowhere" / "out.png"}
    assert table.main([*(f"--{key}={path}" for key, path in paths.items())]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert name in error
