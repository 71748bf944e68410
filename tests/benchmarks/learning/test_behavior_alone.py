"""behavior_alone: actors and critics trained in the dreams of a run's model, which stays as it is."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agent import load
from agent.report.dreams import values_and_returns
from benchmarks.learning import behavior_alone


def test_arms_stand_side_by_side_and_the_run_stays_as_it_is(finished_run: Path, tmp_path: Path):
    before = {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()}
    options = ["--arms", "new", "kept", "--updates", "2", "--episodes", "2", "--json", str(tmp_path / "out.json")]
    assert behavior_alone.main([str(finished_run), *options, "--set", "behavior.replay_value=0.5"]) == 0
    assert {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()} == before
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["settings"]["set"] == ["behavior.replay_value=0.5"]
    new, kept = report["results"]
    assert [row["arm"] for row in (new, kept)] == ["new", "kept"]
    # `counting` pays 55 whatever is done
    assert new["returns"] == kept["returns"] == {"deterministic": [55.0] * 2, "sample": [55.0] * 2}
    assert new["figures"]["replay_value_loss"] != kept["figures"]["replay_value_loss"]


@pytest.mark.parametrize("arm", behavior_alone.ARMS)
def test_an_arm_replaces_what_its_name_says(finished_run: Path, arm: str):
    agent = load(finished_run)
    own, model = agent.actor_critic, {name: x.clone() for name, x in agent.model.state_dict().items()}
    behavior_alone.equip(agent, replace(agent.config, seed=9), arm)
    new = agent.actor_critic
    is_same = {
        name: all(
            torch.equal(a, b)
            for a, b in zip(new.get_submodule(name).parameters(), own.get_submodule(name).parameters(), strict=True)
        )
        for name in ("actor", "critic")
    }
    assert is_same == {name: name not in behavior_alone.ARMS[arm] for name in ("actor", "critic")}
    episodes = behavior_alone.load_episodes(finished_run, 8)
    parts = [behavior_alone.infer(agent, x, torch.Generator().manual_seed(0)) for x in episodes]
    actor = new.actor.net[0].weight.clone()
    behavior_alone.train(agent, behavior_alone.joined(parts), 2)
    assert not torch.equal(new.actor.net[0].weight, actor)
    assert all(torch.equal(x, model[name]) for name, x in agent.model.state_dict().items())


def test_returns_are_those_that_came(finished_run: Path):
    agent = load(finished_run)
    gamma = agent.config.behavior.gamma
    reward, is_terminal = torch.tensor([[0.0, 1.0, 2.0, 4.0]]), torch.zeros(1, 4, dtype=torch.bool)
    features = torch.zeros(1, 4, agent.model.config.feature_dim)
    value, came = values_and_returns(agent, features, reward, is_terminal)
    v = float(value[0, 0])
    by_hand = [1 + gamma * 2 + gamma**2 * 4 + gamma**3 * v, 2 + gamma * 4 + gamma**2 * v]
    assert came[0].tolist() == pytest.approx(by_hand)
    is_terminal[0, -1] = True
    assert values_and_returns(agent, features, reward, is_terminal)[1][0, 1] == pytest.approx(2 + gamma * 4)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--set", "world_model.latent_dim=3"], "set: got 'world_model.latent_dim', expected a key of behavior."),
        (["--set", "behavior.gama=1"], "behavior.gamma"),
        (["--updates", "0"], "updates: got 0"),
    ],
)
def test_bad_input_is_one_line(finished_run: Path, options: list[str], line: str, capsys):
    assert behavior_alone.main([str(finished_run), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error


def test_too_few_rows_are_named(finished_run: Path):
    with pytest.raises(ValueError, match=r"logdir: got episodes of \d+ rows together in .*, expected at least 9999"):
        behavior_alone.load_episodes(finished_run, 9999)


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, capsys):
    assert behavior_alone.main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
