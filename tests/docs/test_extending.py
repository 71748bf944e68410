"""The recipes of docs/extending.md: each is one short file of the user's, and trains as it is written."""

import re
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

import agent
from agent.config.files import load_config
from agent.config.nested import flatten
from agent.learning.exploration import EXPLORATIONS
from agent.run_folder.load import load_run
from agent.run_folder.logger import read_metrics
from world_model.parts import DYNAMICS, EXTRA_LOSSES, PRIORS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
SECTION = re.compile(r"^## ([^\n]*)\n(?:(?!^## ).*\n)*?```python\n((?:.*\n)*?)```", re.MULTILINE)
RECIPES = dict(SECTION.findall(PAGE.read_text(encoding="utf-8")))
CHOSEN = {  # recipe -> what its run's config.yaml must say
    "A prior": {"world_model.prior_config.kind": "unit"},
    "A loss": {"world_model.extra_losses": {"latent_norm": 0.01}},
    "Exploration": {"behavior.exploration": "novelty"},
    "An environment": {"task": "gym:OwnLamps-v0"},
    "A pillar's replacement": {"world_model.dynamics": "gru"},
}
SHORTER = {"env_frames": 70, "replay.prefill_frames": 40, "train.train_ratio": 8, "train.video_frames": 0}
LOGGED = {"A loss": "latent_norm", "Exploration": "novelty"}


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a recipe registers is gone after its test."""
    kept = [
        (registry, dict(registry)) for registry in (PRIORS, DYNAMICS, EXTRA_LOSSES, EXPLORATIONS, gymnasium.registry)
    ]
    yield
    for registry, before in kept:
        registry.clear()
        registry.update(before)


def test_every_recipe_is_tried():
    assert set(RECIPES) == set(CHOSEN)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_one_file_of_fewer_than_30_lines_that_trains(name, tmp_path, monkeypatch):
    lines = [line for line in RECIPES[name].splitlines() if line.strip()]
    assert len(lines) < 30
    monkeypatch.chdir(tmp_path)
    make = agent.make_config
    monkeypatch.setattr(
        agent, "make_config", lambda preset, task, own: make(preset, task, own | SHORTER), raising=False
    )
    script = tmp_path / "my_part.py"
    script.write_text(RECIPES[name], encoding="utf-8")
    exec(compile(RECIPES[name], str(script), "exec"), {"__name__": "__main__"})
    (logdir,) = (tmp_path / "runs").iterdir()
    assert load_run(logdir)["counters"]["updates"] > 10
    settings = dict(flatten(vars(load_config(logdir / "config.yaml"))))
    assert {key: settings[key] for key in CHOSEN[name]} == CHOSEN[name]
    if name in LOGGED:
        assert any(LOGGED[name] in row for row in read_metrics(logdir / "metrics.jsonl"))
