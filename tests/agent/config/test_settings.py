"""A setting is checked where its block is made: whichever way it came, it is plain Python of its declared type."""

import math
from dataclasses import asdict, fields, is_dataclass, replace

import numpy as np
import pytest

from agent import AIME, load
from agent.config.files import load_config, save_config
from agent.config.nested import flatten
from agent.config.presets import make_config
from agent.config.settings import BehaviorConfig, Config, PPOConfig, ReplayConfig, SACConfig
from agent.training.trainer import Trainer
from run_agent import main
from tests.agent.stable_baselines.sb3_models import model_of
from world_model.config import WorldModelConfig
from world_model.settings import declared, from_mapping


def exact(config):
    """Dotted keys with each value and its type: 1, 1.0 and True are three values here."""
    return {key: repr(value) for key, value in flatten(asdict(config))}


def refusal(make) -> str:
    """The one line that refuses what `make` makes."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        make()
    return str(caught.value)


# ---------------------------------------------------------------- what is taken

TAKEN = [
    ("env_frames", 1.5e2, 150),
    ("env_frames", np.float64(150), 150),
    ("env_frames", np.array(150), 150),
    ("seed", np.int64(3), 3),
    ("seed", np.uint8(3), 3),
    ("optimizer.model_lr", np.float32(0.25), 0.25),
    ("optimizer.model_lr", np.int32(1), 1.0),
    ("train.train_ratio", 2, 2.0),
    ("replay.capacity_gb", np.float64(1.5), 1.5),
    ("replay.capacity_gb", None, None),
    ("replay.memmap", np.bool_(True), True),
    ("precision", np.str_("bfloat16"), "bfloat16"),
    ("device", np.str_("cpu"), "cpu"),
    ("world_model.hidden_dim", 16.0, 16),
    ("world_model.encoder_config.stem_stride", np.float32(2), 2),
    ("losses.beta", 1, 1.0),
    ("losses.beta", [[0, np.float64(0.5)], [np.int64(5), np.float32(1)]], [[0.0, 0.5], [5.0, 1.0]]),
    ("losses.beta", ((0, 0.5), (5, 1)), [[0.0, 0.5], [5.0, 1.0]]),
    ("losses.beta", np.array([[0, 0.5], [5, 1]]), [[0.0, 0.5], [5.0, 1.0]]),
    ("sac.gradient_steps", np.int16(-1), -1),
]


@pytest.mark.parametrize(("key", "value", "plain"), TAKEN)
def test_numbers_and_texts_are_taken_as_what_they_are(tmp_path, key, value, plain):
    config = make_config("debug", "counting", {key: value})
    assert exact(config)[key] == repr(plain)
    save_config(config, tmp_path / "config.yaml")
    assert exact(load_config(tmp_path / "config.yaml")) == exact(config)


def test_replacing_a_setting_takes_and_refuses_the_same():
    config = make_config("debug")
    assert repr(replace(config, env_frames=150.0).env_frames) == "150"
    assert repr(replace(config.behavior, horizon=np.int64(3)).horizon) == "3"
    assert refusal(lambda: replace(config, precision="float16")) == (
        "precision: got 'float16', expected one of 'float32', 'bfloat16'"
    )
    assert refusal(lambda: replace(config.behavior, horizon=1.5)) == "horizon: got 1.5, expected a whole number"


def test_a_list_is_the_configs_own():
    points = [[0.0, 0.0], [5.0, 1.0]]
    config = make_config("debug", None, {"losses.beta": points})
    points[1][0] = -1.0
    assert config.losses.beta == [[0.0, 0.0], [5.0, 1.0]]


def test_a_block_may_be_a_mapping_or_none():
    config = make_config("cpu", "walker_walk")
    assert Config(behavior={"horizon": 3}).behavior == BehaviorConfig(horizon=3)
    assert make_config("cpu", "walker_walk", {"replay": None}) == config  # not the defaults, which no preset has
    assert make_config("cpu", "walker_walk", {"replay": {"batch_size": 3}}).replay == replace(
        config.replay, batch_size=3
    )
    assert make_config("cpu", "walker_walk", {"replay": ReplayConfig(batch_size=3)}).replay == ReplayConfig(
        batch_size=3
    )


# ---------------------------------------------------------------- what is refused

REFUSED = [
    ("env_frames", 150.5, "got 150.5, expected a whole number"),
    ("env_frames", True, "got True, expected a whole number"),
    ("env_frames", np.bool_(True), "got np.True_, expected a whole number"),
    ("env_frames", "3", "got '3', expected a whole number"),
    ("env_frames", None, "got None, expected a whole number"),
    ("env_frames", math.inf, "got inf, expected a whole number"),
    ("env_frames", math.nan, "got nan, expected a whole number"),
    ("env_frames", 10**400, f"got 1{'0' * 56}..., expected a whole number"),
    ("env_frames", [3], "got a list, expected a whole number"),
    ("compile", 0, "got 0, expected true or false"),
    ("compile", "false", "got 'false', expected true or false"),
    ("precision", "float16", "got 'float16', expected one of 'float32', 'bfloat16'"),
    ("algo", "dreamer", "got 'dreamer', expected one of 'aime', 'sac', 'ppo'"),
    ("behavior.gradient", "Reinforce", "got 'Reinforce', expected one of 'auto', 'dynamics', 'reinforce'"),
    ("behavior.entropy", None, "got None, expected a finite number"),
    ("behavior.entropy", False, "got False, expected a finite number"),
    ("optimizer.model_lr", math.inf, "got inf, expected a finite number"),
    ("optimizer.model_lr", np.float32("nan"), "got np.float32(nan), expected a finite number"),
    ("optimizer.model_lr", 1j, "got 1j, expected a finite number"),
    ("optimizer.matrix_lr", -1, "got -1.0, expected at least 0"),
    ("replay.capacity_gb", math.inf, "got inf, expected a finite number or null"),
    ("losses.beta", [[0, math.nan]], "got a list, expected a finite number or a list of lists of finite numbers"),
    ("losses.beta", [1, 2], "got a list, expected a finite number or a list of lists of finite numbers"),
    ("task", 3, "got 3, expected a short text"),
    ("size", 10, "got 10, expected a short text or null"),
    ("sac.batch_size", 64.5, "got 64.5, expected a whole number"),
    ("sac.buffer_gb", -1, "got -1.0, expected a positive number"),
    ("world_model.hidden_dim", 0, "got 0, expected a positive integer"),
    ("world_model.use_rgb", 1, "got 1, expected true or false"),
    ("world_model.prior_config.free_nats", math.inf, "got inf, expected a finite number"),
    ("world_model.encoder_config.gram_fraction", 2, "got 2.0, expected [0, 1]"),
    ("replay", 3, "got 3, expected a mapping of settings"),
]


@pytest.mark.parametrize(("key", "value", "line"), REFUSED)
def test_everything_else_is_refused_in_one_line(key, value, line):
    assert refusal(lambda: make_config("debug", "counting", {key: value})) == f"{key}: {line}"


@pytest.mark.parametrize("key", declared(Config))
def test_no_setting_is_left_out(key):
    """Whatever is added to a block of settings is checked, too."""
    *blocks, last = key.split(".")
    for wrong in (object(), [object()], math.nan, b"x"):
        values = {last: wrong}
        for block in reversed(blocks):
            values = {block: values}
        assert refusal(lambda values=values: from_mapping(Config, values)).startswith(f"{key}: got ")


@pytest.mark.parametrize("kind", [Config, WorldModelConfig, SACConfig, PPOConfig])
def test_a_block_made_directly_is_checked(kind):
    names = [item.name for item in fields(kind) if not is_dataclass(item.type)]
    for name in names:
        assert refusal(lambda name=name: kind(**{name: object()})).startswith(f"{name}: got <object object at 0x")
    assert kind() == from_mapping(kind, {})


@pytest.mark.parametrize(("make", "line"), [
    (lambda: make_config(5), "preset: got 5, expected a short text"),
    (lambda: make_config("debug", 5), "task: got 5, expected a short text or null"),
    (lambda: make_config("debug", None, {3: 4}), "3: got a int as a key, expected a name"),
    (lambda: make_config("debug", None, {"replay.batch_sise": 4}),
     "unknown key 'replay.batch_sise'; the nearest known one is 'replay.batch_size'"),
    (lambda: Config(world_model={"attention_config": {"slots": 1}}),
     "unknown key 'world_model.attention_config.slots'; the nearest known one is "
     "'world_model.attention_config.num_slots'"),
])  # fmt: skip
def test_names_are_checked_as_values_are(make, line):
    assert refusal(make) == line


# ---------------------------------------------------------------- the doors

ODD = {
    "env_frames": 1.5e2,
    "env.num_envs": np.int64(1),
    "threads": np.int64(1),
    "seed": np.int64(3),
    "train.final_updates": 2.0,
    "train.eval_episodes": np.float32(1),
    "precision": np.str_("float32"),
    "losses.beta": [[0, np.float64(0)], [np.int64(5), 1]],
}
PLAIN = {
    "env_frames": 150,
    "env.num_envs": 1,
    "threads": 1,
    "seed": 3,
    "train.final_updates": 2,
    "train.eval_episodes": 1,
    "precision": "float32",
    "losses.beta": [[0.0, 0.0], [5.0, 1.0]],
}


def test_a_run_of_oddly_typed_settings_loads_evaluates_and_resumes(capsys, tmp_path):
    config = make_config("debug", "counting", ODD)
    assert exact(config) == exact(make_config("debug", "counting", PLAIN))
    Trainer(config, tmp_path, quiet=True).run()
    agent = load(tmp_path)
    assert exact(agent.config) == exact(config)
    assert main(["evaluate", "--logdir", str(tmp_path), "--episodes", "1e0", "--seed", "1_0"]) == 0
    assert "1 episodes each, seeds 10 to 10" in capsys.readouterr().out
    assert main(["train", "--logdir", str(tmp_path), "--resume", "--env_frames", "1.6e2", "--quiet"]) == 0
    assert load_config(tmp_path / "config.yaml").env_frames == 160
    assert load(tmp_path).updates > agent.updates


def test_aime_takes_and_refuses_the_same():
    model = AIME(
        "counting", "debug", np.int64(3), "cpu", replay={"batch_size": np.int64(3)}, losses={"beta": ((0, 1),)}
    )
    assert (repr(model.config.replay.batch_size), repr(model.config.seed)) == ("3", "3")
    assert model.config.losses.beta == [[0.0, 1.0]]
    assert model_of(replay=ReplayConfig(batch_size=3)).config.replay == ReplayConfig(batch_size=3)
    assert refusal(lambda: model_of(replay={"batch_size": "3"})) == (
        "replay.batch_size: got '3', expected a whole number"
    )
    assert refusal(lambda: model_of(compile=0)) == "compile: got 0, expected true or false"
    assert refusal(lambda: model_of(train=make_config("debug").train)).startswith("train.offline_updates: got a value")
    assert refusal(lambda: AIME("counting", "debug", 3.5)) == "seed: got 3.5, expected a whole number"


def test_a_file_reads_numbers_as_the_command_line_does(tmp_path):
    path = tmp_path / "config.yaml"
    save_config(make_config("debug", "counting"), path)
    text = path.read_text().replace("env_frames: 400", "env_frames: 1e5").replace("seed: 0", "seed: 010")
    path.write_text(text.replace("model_clip: 1000.0", "model_clip: .1e1"))
    config = load_config(path)
    assert (repr(config.env_frames), config.seed, config.optimizer.model_clip) == ("100000", 10, 1.0)
    for text in ("1e5", "1.5e2", "010", "true", "~"):  # texts that look like something else come back as texts
        save_config(replace(config, preset=text), path)
        assert load_config(path).preset == text
