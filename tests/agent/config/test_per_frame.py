"""Train ratio and discount follow from the action repeat, unless a task's row or an override sets them."""

import fnmatch
import re
from argparse import Namespace
from dataclasses import asdict

import pytest

from agent.commands.parser import resumed_config
from agent.config.files import read_yaml
from agent.config.nested import flatten
from agent.config.presets import PRESET_FOLDER, load_preset, make_config, parse_overrides, preset_names
from agent.config.settings import BehaviorConfig, EnvConfig
from envs.tasks import SUITE_TASKS

RULES = {"cpu": (16, 400), "gpu": (256, 2000 / 3), "reference": (256, 2000 / 3)}  # per env_frame, env_frames ahead
DMC = ["cartpole_swingup", "cartpole_balance_sparse", "reacher_easy", "cheetah_run", "finger_spin",
       "ball_in_cup_catch", "walker_walk", "hopper_hop"]  # fmt: skip


def figures(config):
    return config.env.action_repeat, config.train.train_ratio, config.behavior.gamma


@pytest.mark.parametrize("overrides", [{}, {"size": "10m"}, {"env.action_repeat": 3}])
@pytest.mark.parametrize("task", [*DMC, "cartpole_swingup?time_limit=5", "counting"])
@pytest.mark.parametrize("preset", RULES)
def test_every_env_frame_counts_alike(preset, task, overrides):
    config = make_config(preset, task, overrides)
    trained, ahead = RULES[preset]
    assert config.env.action_repeat == overrides.get("env.action_repeat", config.env.action_repeat)
    assert config.train.train_ratio == trained * config.env.action_repeat
    assert config.behavior.gamma == pytest.approx(1 - config.env.action_repeat / ahead, abs=1e-12)


@pytest.mark.parametrize(
    ("preset", "task", "expected"),
    [
        ("cpu", "cartpole_swingup", (8, 128, 0.98)),
        ("cpu", "reacher_easy", (4, 64, 0.99)),
        ("cpu", "cheetah_run", (4, 64, 0.99)),
        ("cpu", "ball_in_cup_catch", (4, 64, 0.99)),
        ("cpu", "finger_spin", (2, 32, 0.995)),
        ("cpu", "walker_walk", (2, 32, 0.995)),
        ("cpu", "counting", (2, 32, 0.995)),
        ("cpu", "reaching", (1, 64, 0.9975)),
        ("cpu", "gym:CarRacing-v3", (1, 32, 0.995)),
        ("gpu", "cartpole_swingup", (2, 512, 0.997)),
        ("gpu", "reaching", (2, 512, 0.997)),
        ("gpu", "gym:CarRacing-v3", (1, 512, 0.997)),
        ("reference", "walker_walk", (2, 512, 0.997)),
        ("reference", "gym:CarRacing-v3", (1, 512, 0.997)),
        ("debug", "counting", (1, 2, 0.997)),
        ("debug", "walker_walk", (1, 2, 0.997)),
    ],
)
def test_figures_by_hand(preset, task, expected):
    assert figures(make_config(preset, task)) == expected


@pytest.mark.parametrize("preset", preset_names())
def test_a_row_for_the_suite_sets_the_action_repeat_and_nothing_else(preset):
    """One configuration for every task; what counts in env_frames follows from the repeat."""
    of_repeat = {"env.action_repeat", "train.train_ratio", "behavior.gamma"}
    plain = dict(flatten(asdict(make_config(preset, "walker_walk"))))
    for task in SUITE_TASKS:
        config = dict(flatten(asdict(make_config(preset, task))))
        assert {key for key in plain if config[key] != plain[key]} <= {"task", *of_repeat}, task
    for pattern, row in read_yaml(PRESET_FOLDER / f"{preset}.yaml").get("per_task", {}).items():
        if fnmatch.filter(SUITE_TASKS, pattern):
            assert dict(flatten(row)).keys() == {"env.action_repeat"}, pattern


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
@pytest.mark.parametrize("task", ["walker_walk", "reaching", "counting", "gym:CarRacing-v3"])
def test_all_five_pillars_are_on(preset, task):
    model = make_config(preset, task).world_model
    assert model.perceiver_config.enabled
    assert model.max_components > 1
    assert model.prior_config.kind == "mixture"
    assert model.use_orthogonal
    assert model.attention_config.enabled
    assert model.use_rgb
    assert model.rgb_config.method == "balanced"


@pytest.mark.parametrize(
    ("preset", "task", "expected"),
    [
        ("cpu", "gym:CarRacing-v3", (4, 32, 0.995)),
        ("cpu", "reaching", (4, 64, 0.99)),
        ("debug", "counting", (4, 2, 0.997)),
    ],
)
def test_what_counts_in_decisions_stays_at_any_repeat(preset, task, expected):
    assert figures(make_config(preset, task, {"env.action_repeat": 4})) == expected


def test_an_override_wins_and_the_other_one_follows():
    repeat = ["--env.action_repeat", "4"]
    assert figures(parse_overrides(repeat, "cpu", "walker_walk")) == (4, 64, 0.99)
    assert figures(parse_overrides(["--behavior.gamma", "0.9", *repeat], "cpu", "walker_walk")) == (4, 64, 0.9)
    assert figures(parse_overrides([*repeat, "--train.train_ratio", "7"], "cpu", "walker_walk")) == (4, 7, 0.99)
    assert figures(make_config("cpu", "walker_walk", {"behavior": {"horizon": 3}, "env": None})) == (2, 32, 0.995)
    blocks = {"env": EnvConfig(action_repeat=4), "behavior": BehaviorConfig(gamma=0.5)}
    assert figures(make_config("cpu", "walker_walk", blocks)) == (4, 64, 0.5)
    assert load_preset("cpu", "walker_walk", overrides={"env.action_repeat": 4})["behavior"]["gamma"] == 0.99


def test_a_run_that_is_resumed_keeps_its_own(tmp_path):
    """A run of before the rule had the preset's two figures at any repeat."""
    before = {"env.action_repeat": 4, "train.train_ratio": 32, "behavior.gamma": 0.995}
    saved = make_config("cpu", "walker_walk", before)
    options = Namespace(preset="cpu", task="walker_walk")
    for arguments in ([], ["--env.action_repeat", "4"], ["--env.action_repeat=4", "--behavior.gamma=0.995"]):
        assert resumed_config(saved, tmp_path, options, arguments) == saved
    with pytest.raises(ValueError, match=r"behavior\.gamma: 0\.995 -> 0\.99\)"):
        resumed_config(saved, tmp_path, options, ["--behavior.gamma", "0.99"])


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"env.action_repeat": None}, "env.action_repeat: got None, expected a whole number"),
        ({"env.action_repeat": 1.5}, "env.action_repeat: got 1.5, expected a whole number"),
        ({"env.action_repeat": 0}, "env.action_repeat: got 0, expected a positive number"),
        ({"env": 5}, "env: got 5, expected a mapping of settings"),
        ({"train": 5}, "train: got 5, expected a mapping of settings"),
        ({"behavior": 5}, "behavior: got 5, expected a mapping of settings"),
        ({"behavior": {3: 4}}, "behavior.3: got a int as a key, expected a name"),
        ({"behavior.gamma": None}, "behavior.gamma: got None, expected a finite number"),
        (
            {"env.action_repeat": 400},
            "env.action_repeat: got 400, expected a number below 400, as far as returns look ahead, "
            "or a behavior.gamma beside it",
        ),
    ],
)
def test_errors_name_what_was_given(overrides, line):
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        make_config("cpu", "walker_walk", overrides)


def test_a_long_repeat_is_taken_with_a_discount():
    config = make_config("cpu", "walker_walk", {"env.action_repeat": 400, "behavior.gamma": 0.5})
    assert figures(config) == (400, 6400, 0.5)
