"""Agents as files through the command line: export, --agent, train --from, push."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from imageio_ffmpeg import count_frames_and_secs

from agent import load, make_config
from agent.evaluation.episodes import evaluate
from agent.run_folder.agent_file import read_agent_file
from agent.run_folder.load import load_run
from agent.run_folder.places import PRETRAINED_FOLDER, pretrained_names
from run_agent import main

STILL = [f"--optimizer.{name}=0" for name in ("model_lr", "actor_lr", "critic_lr")]  # an update changes no weight
SHORT = ["--train.video_frames=0", "--env_frames=110", "--train.eval_episodes=1", "--env.num_envs=1", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of the debug preset with a stored evaluation."""
    logdir = tmp_path_factory.mktemp("runs") / "reaching"
    assert main(["train", "--preset=debug", "--task=reaching", "--seed=3", f"--logdir={logdir}", *SHORT]) == 0
    assert main(["evaluate", f"--logdir={logdir}", "--episodes=2", "--seed=7"]) == 0
    return logdir


@pytest.fixture(scope="module")
def file(run) -> Path:
    """The run's agent."""
    path = run.parent / "small.aime"
    assert main(["export", f"--logdir={run}", f"--out={path}", "--commit=0123abc"]) == 0
    return path


def refused(capsys, *argv: str) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_export_says_what_it_wrote_and_the_card_what_the_run_was(capsys, run, tmp_path):
    path = tmp_path / "a.aime"
    assert main(["export", f"--logdir={run}", f"--out={path}"]) == 0
    stored = json.loads((run / "evaluation.json").read_text())
    out = capsys.readouterr().out
    assert f"seed 3: return {stored['deterministic']['mean']:.1f} over 2 deterministic episodes" in out
    assert f"written to {path} (" in out
    card, counters = read_agent_file(path).card, load_run(run)["counters"]
    assert (card.env_frames, card.updates) == (counters["env_frames"], counters["updates"])
    assert card.evaluation["sample"]["returns"] == stored["sample"]["returns"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert card.curve == [[row["env_frames"], row["eval_return"]] for row in rows if "eval_return" in row]
    assert len(card.curve) > 0
    assert card.config == yaml.safe_load((run / "config.yaml").read_text())


def test_an_evaluation_of_other_weights_is_left_out(run_copy, tmp_path):
    (run_copy / "evaluation.json").write_text(json.dumps({"updates": 1, "deterministic": {}}))
    assert main(["export", f"--logdir={run_copy}", f"--out={tmp_path / 'a.aime'}"]) == 0
    assert read_agent_file(tmp_path / "a.aime").card.evaluation is None


def test_a_file_is_evaluated_and_recorded_as_its_run_is(capsys, monkeypatch, run, file, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", f"--agent={file}", "--episodes=2", "--seed=7"]) == 0
    assert "written to small-evaluation.json" in capsys.readouterr().out
    found = json.loads(Path("small-evaluation.json").read_text())
    before = json.loads((run / "evaluation.json").read_text())
    assert [found[key] for key in ("task", "updates", "env_frames")] == ["reaching", before["updates"], 110]
    np.testing.assert_allclose(found["deterministic"]["returns"], before["deterministic"]["returns"], atol=0.5)
    assert found["random"] == before["random"]
    kinds = {"record": ["--planner=mppi", "--planner.candidates=8"], "dream": ["--dream"]}
    kinds["imagine"] = ["--imagine", "--horizon=21", "--dreams=1"]
    for kind, options in kinds.items():
        assert main(["record", f"--agent={file}", *options]) == 0
        assert f"written to small-{kind}.mp4\n" in capsys.readouterr().out
        assert count_frames_and_secs(f"small-{kind}.mp4")[0] == 26
    assert {path.name for path in tmp_path.iterdir()} == {"small-evaluation.json", *(f"small-{x}.mp4" for x in kinds)}


# ---------------------------------------------------------------- train --from


def weights(place: Path) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in load(str(place), "cpu").named_weights()}


def test_a_run_starts_from_a_file_and_notes_it(run, file, tmp_path):
    """Without learning rates the weights stay what they were at the start."""
    logdir = tmp_path / "next"
    command = ["train", f"--from={file}", f"--logdir={logdir}", "--seed=9", *STILL, *SHORT]
    assert main(command) == 0
    config = yaml.safe_load((logdir / "config.yaml").read_text())
    assert (config["task"], config["seed"], config["preset"]) == ("reaching", 9, "debug")
    name, _, digest = config["started_from"].partition(" sha256:")
    assert (name, len(digest)) == ("small.aime", 16)
    assert str(file.parent) not in (logdir / "config.yaml").read_text()
    payload, kept = load_run(logdir), weights(file)
    assert payload["counters"]["updates"] > 0
    read = read_agent_file(file).weights
    assert [
        name for name, value in weights(logdir).items() if name in read and not torch.equal(value, kept[name])
    ] == []
    assert main([*command, "--env_frames=120"]) == 0  # the same command resumes
    assert load_run(logdir)["counters"]["env_frames"] == 120


def test_a_run_starts_from_a_runs_folder_with_all_its_weights(run, tmp_path):
    logdir = tmp_path / "next"
    assert main(["train", f"--from={run}", f"--logdir={logdir}", "--seed=9", *STILL, *SHORT]) == 0
    before, after = weights(run), weights(logdir)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    name = yaml.safe_load((logdir / "config.yaml").read_text())["started_from"]
    assert name.startswith(f"{run.name}/{load_run(run)['counters']['updates']:09d}.pt sha256:")


def test_starts_that_do_not_fit_are_one_line_and_write_nothing(capsys, run, file, tmp_path):
    logdir = tmp_path / "new"
    start = ["train", f"--from={file}", f"--logdir={logdir}"]
    got, pixels = "with 1 continuous action dimensions and frames of 64 pixels", "frames of 64 pixels as in counting"
    expected = f"{got}, expected 2 continuous action dimensions and {pixels}"
    assert expected in refused(capsys, *start, "--quiet", "--task=counting")
    assert "frames of 96 pixels as in reaching" in refused(capsys, *start, "--quiet", "--env.size=96")
    error = refused(capsys, *start, "--quiet", "--world_model.hidden_dim=24")
    assert "from: got small.aime sha256:" in error
    assert "expected a tensor [" in error
    assert "from: got algo ppo, expected aime" in refused(capsys, *start, "--quiet", "--algo=ppo")
    assert "size: got '10m', expected none with --from" in refused(capsys, *start, "--quiet", "--size=10m")
    advice = "without --preset a run takes the settings of the agent that it starts from"
    assert advice in refused(capsys, *start, "--quiet", "--preset=cpu", "--task=reaching")
    assert "started_from: got a value, expected none" in refused(capsys, *start, "--started_from=x")
    assert "(no such file)" in refused(capsys, "train", "--from=nothing/a.aime", f"--logdir={logdir}")
    assert "a folder without a run" in refused(capsys, "train", f"--from={tmp_path}", f"--logdir={logdir}")
    assert not logdir.exists()


def test_a_run_that_started_otherwise_is_another_run(capsys, run, file, run_copy):
    assert main(["train", f"--logdir={run_copy}", "--quiet"]) == 0
    expected = f"expected none as in '{run_copy}'; choose another --logdir"
    assert expected in refused(capsys, "train", f"--from={file}", f"--logdir={run_copy}", "--quiet")


def test_a_run_without_a_checkpoint_needs_its_start_again(capsys, file, run_copy):
    for path in (run_copy / "checkpoints").iterdir():
        path.unlink()
    config = make_config("debug", "counting", {"started_from": "a.aime sha256:0"})
    from agent.config.files import save_config

    save_config(config, run_copy / "config.yaml")
    expected = "from: got none, expected a.aime sha256:0"
    assert expected in refused(capsys, "train", f"--logdir={run_copy}", "--resume", "--quiet")


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["export", "--logdir={run}", "--out={file}"], "which exists, expected a new name (or --overwrite)"),
        (["export", "--logdir={run}", "--out=a.pt"], "out: got 'a.pt', expected a name ending in .aime"),
        (["export", "--logdir={folder}", "--out=a.aime"], "expected a folder with a run (no config.yaml in it)"),
        (["export", "--logdir={run}", "--out=a.aime", "--commit=main"], "commit: got 'main', expected 7 to 40"),
        (["evaluate", "--agent={file}", "--logdir={run}"], "not allowed with argument --"),
        (["evaluate", "--logdir={file}", "--json=a.json"], "a file, expected a run's folder; --agent reads files"),
        (["record", "--agent={folder}"], "a folder, expected a file; --logdir reads a run's folder"),
        (["record", "--agent={folder}/none.aime"], "expected the file of an agent (no such file)"),
        (["record", "--agent=walker_wlk"], "agent: got 'walker_wlk', expected one that comes with the package ('"),
        (["record", "--agent={cut}", "--dream"], "cut, damaged or another file"),
        (["evaluate", "--agent={text}"], "cut, damaged or another file"),
        (["push", "--agent={file}", "--hub=me/it", "--commit=0123456"], "expected it with --logdir"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_writes_nothing(capsys, monkeypatch, run, file, tmp_path, argv, expected):
    (tmp_path / "cut.aime").write_bytes(file.read_bytes()[:-9])
    (tmp_path / "text").write_text("not an agent")
    (tmp_path / "folder").mkdir()
    places = {"run": run, "file": file} | {name: tmp_path / name for name in ("text", "folder")}
    monkeypatch.chdir(tmp_path / "folder")
    content = file.read_bytes()
    assert expected in refused(capsys, *(word.format(cut=tmp_path / "cut.aime", **places) for word in argv))
    assert file.read_bytes() == content
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_run_without_a_checkpoint_cannot_be_exported(capsys, run_copy, tmp_path):
    for path in (run_copy / "checkpoints").iterdir():
        path.unlink()
    out = tmp_path / "a.aime"
    assert "no checkpoint in" in refused(capsys, "export", f"--logdir={run_copy}", f"--out={out}")
    assert not out.exists()


# ---------------------------------------------------------------- agents in the package


def test_the_stored_evaluation_is_reproduced():
    """An episode lies where ten others, the stored ones, say that 99 of 100 do (Student's prediction interval)."""
    name = "ball_in_cup_catch"
    scores = read_agent_file(PRETRAINED_FOLDER / f"{name}.aime").card.evaluation["deterministic"]
    assert len(scores["returns"]) == 10
    found = evaluate(load(f"pretrained:{name}", "cpu"), 1, scores["seeds"][0])
    assert abs(found.mean - scores["mean"]) < 3.25 * scores["std"] * np.sqrt(1 + 1 / 10)  # t of 9 degrees, 0.995


@pytest.mark.parametrize("name", pretrained_names())
def test_agents_in_the_package_are_small_and_have_a_whole_card(name):
    path = PRETRAINED_FOLDER / f"{name}.aime"
    card = read_agent_file(path).card
    assert path.stat().st_size <= 4 * 2**20
    assert card.config["task"] == name
    assert card.commit is not None
    assert len(card.evaluation["deterministic"]["returns"]) >= 10
    assert card.curve[-1][0] == card.env_frames
    assert "/" not in json.dumps(card.config)  # no path of the machine that trained it


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match=r"got 'pretrained:nobody', expected one that comes with .*ball_in_cup_catch"):
        load("pretrained:nobody")
