"""docs/configuration.md is what the code says, and the code says something about every key."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.commands.parser import config_keys
from agent.config.presets import PRESET_FOLDER, make_config
from docs import make_configuration

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def rows() -> dict[str, list[str]]:
    """Key -> the cells of its row in the page: type, default, one for each preset, meaning."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if line.startswith("| `") and len(cells) > 2:
            found[cells[0].removesuffix(" *").strip("`")] = cells[1:]
    return found


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == make_configuration.reference(), f"run  {make_configuration.COMMAND}"


def test_every_key_has_one_row_and_a_meaning():
    assert list(rows()) == sorted(rows(), key=config_keys().index)
    assert set(rows()) == set(config_keys())
    own = [key for key, cells in rows().items() if not key.startswith(("sac.", "ppo.")) and cells[-1] == ""]
    assert own == []  # the baselines' keys keep the names of Stable-Baselines3


def test_figures_by_hand():
    presets = sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml") if path.stem not in ("sizes", "tasks"))
    assert presets == ["cpu", "debug", "gpu", "reference"]
    assert rows()["replay.batch_size"][:6] == ["int", "16", "8", "2", "", "8"]
    assert rows()["env_frames"][1:6] == ["1_000_000", "100_000", "400", "", ""]
    assert rows()["task"][1:6] == ["cartpole_swingup", "", "counting", "", ""]
    assert rows()["world_model.use_rgb"][:2] == ["bool", "true"]
    assert "| `cpu: cartpole_*` | `env.action_repeat` 8 |" in PAGE.read_text()
    assert "| `cpu` | `train_ratio` 16, `discount_rate` 0.0025 |" in PAGE.read_text()


@pytest.mark.parametrize("preset", ["cpu", "gpu", "reference"])
def test_a_column_and_the_defaults_make_the_preset(preset):
    config = make_config(preset, "walker_walk")  # no row for a task fits it
    for key in ("behavior.gamma", "train.train_ratio", "losses.beta", "world_model.rgb_config.mu", "device"):
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        cells = rows()[key]
        shown = cells[2 + ["cpu", "debug", "gpu", "reference"].index(preset)] or cells[1]
        assert (shown if isinstance(value, str) else float(shown)) == value


def test_comments_belong_to_their_own_line():
    assert make_configuration.comments(Sample) == {"first": "one # of two", "second": "", "third": "three"}


@dataclass(frozen=True)
class Sample:
    """Fields of several kinds."""

    first: str = "# no comment"  # one # of two
    second: int = 2
    third: float = 3.0  # three
