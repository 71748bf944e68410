"""model_alone: arms of a run's own settings, trained on its episodes, judged on those held out."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from benchmarks.learning import model_alone


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run with a latent of its own in its config; only that and its episodes are read here."""
    logdir = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("model_alone") / "run"))
    settings = yaml.safe_load((logdir / "config.yaml").read_text())
    settings["world_model"]["latent_dim"] = 5
    (logdir / "config.yaml").write_text(yaml.safe_dump(settings))
    return logdir


def test_arms_and_seeds_stand_side_by_side(run: Path, tmp_path: Path):
    options = ["--arms", "aime", "k1", "--set", "world_model.max_components=4", "--seeds", "0", "1"]
    options += ["--updates", "3", "--held_out", "2"]
    before = sorted(path.name for path in run.iterdir())
    assert model_alone.main([str(run), *options, "--json", str(tmp_path / "out.json")]) == 0
    assert sorted(path.name for path in run.iterdir()) == before
    rows = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [(row["arm"], row["seed"]) for row in rows] == [("aime", 0), ("aime", 1), ("k1", 0), ("k1", 1)]
    figures = [row["figures"] for row in rows]
    assert len({found["recon_loss"] for found in figures}) == 4
    assert all(found["components_used/entropy"] == pytest.approx(1) for found in figures[2:])
    assert figures[0]["components_used/entropy"] > 1.5  # the arm's own setting wins over --set


def test_the_held_out_episodes_are_the_newest_and_not_trained_on(run: Path):
    training, held_out = model_alone.load_episodes(run, 2, 8)
    whole, _ = model_alone.load_episodes(run, 1, 8)
    assert len(whole) == len(training) + 1
    assert (whole[-1].image == held_out[0].image).all()


def test_updates_teach_the_model(run: Path):
    config = model_alone.arm_config(
        model_alone.load_config(run / "config.yaml"), "aime", ["optimizer.model_lr=1e-2", "replay.shift=1"], 0
    )
    assert config.replay.shift == 1
    assert (config.world_model.latent_dim, config.optimizer.model_lr) == (5, 1e-2)  # the run's own, and what was set
    training, held_out = model_alone.load_episodes(run, 2, 8)
    losses = [model_alone.judge(model_alone.train(config, training, n), held_out)["recon_loss"] for n in (1, 30)]
    assert losses[1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--held_out", "999"], "held_out: got 999"),
        (["--set", "world_model.latent"], "set: got 'world_model.latent=', expected key=value"),
        (["--set", "behavior.entropy=1"], "set: got 'behavior.entropy', expected a key of world_model., losses."),
        (["--set", "seed=3"], "set: got 'seed=3', expected key=value with none of the keys seed"),
        (["--set", "world_model.latent=3"], "world_model.latent_dim"),
        (["--updates", "0"], "updates: got 0"),
    ],
)
def test_bad_input_is_one_line(run: Path, options: list[str], line: str, capsys):
    assert model_alone.main([str(run), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, capsys):
    assert model_alone.main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
