"""Presets, per-task rows, overrides and one-line errors."""

from argparse import Namespace

import pytest

from agent.commands.parser import resumed_config
from agent.config.files import load_config, save_config
from agent.config.nested import differences
from agent.config.presets import make_config, parse_overrides, preset_names
from agent.config.settings import Config
from agent.learning.agent import Agent


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_is_valid_and_says_its_name(preset):
    config = make_config(preset)
    assert config.preset == preset
    assert config.replay.batch_size * config.replay.batch_length > 0


def test_the_four_presets_are_there():
    assert preset_names() == ["cpu", "debug", "gpu", "reference"]


def test_the_reference_presets_earlier_name_still_means_it():
    earlier, config = make_config("seed", "walker_walk"), make_config("reference", "walker_walk")
    assert differences(earlier, config) == ["preset: seed -> reference"]


@pytest.mark.parametrize(
    ("task", "repeat"),
    [("cartpole_swingup", 8), ("cartpole_balance", 8), ("reacher_easy", 4), ("cheetah_run", 4),
     ("finger_spin", 2), ("ball_in_cup_catch", 4), ("walker_walk", 2), ("hopper_hop", 2)],
)  # fmt: skip
def test_cpu_preset_uses_planet_action_repeats_and_trains_equally_per_frame(task, repeat):
    config = make_config("cpu", task)
    assert config.env.action_repeat == repeat
    assert config.train.train_ratio / repeat == make_config("cpu", "walker_walk").train.train_ratio / 2
    assert config.env.render == "fast"
    assert make_config("gpu", task).env.action_repeat == 2
    assert make_config("gpu", task).env.render == "standard"


def test_the_reference_preset_holds_the_seed_documents_figures():
    config = make_config("reference")
    model = config.world_model
    assert (model.latent_dim, model.hidden_dim, model.max_components) == (36, 512, 15)
    assert model.perceiver_config.context_dim == 256
    assert model.attention_config.num_slots == 5
    assert (config.replay.batch_size, config.replay.batch_length) == (8, 16)
    assert (config.optimizer.model_lr, config.optimizer.model_clip) == (2e-4, 5.0)
    assert (config.losses.lambda_recon, config.losses.lambda_att_dyn) == (1.0, 0.1)
    assert (config.losses.lambda_gram, config.losses.entropy_weight, config.losses.beta) == (0.05, 0.1, 1.0)
    assert (model.rgb_config.mu, model.rgb_config.lambd, model.rgb_config.alpha_steps) == (0.9, 1.0, 3)


def test_overrides_win_over_the_preset_and_keep_their_types():
    arguments = ["--replay.batch_size", "4", "--world_model.prior_config.unimix=0.1", "--world_model.use_rgb", "false"]
    config = parse_overrides([*arguments, "--replay.capacity_gb", "2"], "cpu", "walker_walk")
    assert config.replay.batch_size == 4
    assert config.world_model.prior_config.unimix == 0.1
    assert config.world_model.use_rgb is False
    assert config.replay.capacity_gb == 2.0
    assert config.env.action_repeat == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--replay.batch_siz", "4"], "replay.batch_size"),
        (["--replay.batch_size", "x"], "replay.batch_size"),
        (["--env_frames", "-1"], "env_frames"),
        (["--behavior.gradient", "foo"], "behavior.gradient"),
        (["--world_model.max_components", "0"], "max_components"),
        (["--train.eval_episodes", "0"], "train.eval_episodes"),
        (["--behavior.gamma", "5"], "behavior.gamma"),
        (["--replay.capacity_gb", "-1"], "replay.capacity_gb"),
        (["--replay.capacity_steps", "8"], "replay.batch_length"),
        (["stray"], "stray"),
        (["--seed"], "^seed: got no value"),
        (["--seed", "--env_frames", "3"], "^seed: got no value"),
        (["--algo", "dreamer"], "^algo: got 'dreamer', expected one of 'aime', 'sac', 'ppo'$"),
        (["--env_frames", "150.5"], "^env_frames: got 150.5, expected a whole number$"),
        (["--env_frames", "0x10"], "^env_frames: got '0x10', expected a whole number$"),
        (["--env_frames", "1:30"], "^env_frames: got '1:30', expected a whole number$"),
        (["--env_frames="], "^env_frames: got '', expected a whole number$"),
        (["--compile", "1"], "^compile: got 1, expected true or false$"),
        (["--optimizer.model_lr", ".inf"], "^optimizer.model_lr: got inf, expected a finite number$"),
        (["--world_model.hidden_dim", "x"], "^world_model.hidden_dim: got 'x', expected a positive integer$"),
        (["--losses.beta", "-1"], "losses.beta: got -1.0, expected a number >= 0 or points"),
        (["--losses.beta", "[[5, 1], [4, 1]]"], "losses.beta: got .* expected a number >= 0 or points"),
        (["--losses.lambda_recon", "[[0, 1], [5, -1]]"], "losses.lambda_recon: got .* expected a number >= 0"),
        (
            ["--losses.beta", "often"],
            r"^losses.beta: got 'often', expected a finite number or a list of lists of finite numbers$",
        ),
        (["--replay.capacity_gb", "x"], r"^replay.capacity_gb: got 'x', expected a finite number or null$"),
    ],
)
def test_bad_overrides_are_one_line_naming_the_key(arguments, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        parse_overrides(arguments, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e5", 100_000), ("100_000", 100_000), ("1.5e2", 150), ("100.0", 100), ("010", 10), ("+5", 5)],
)
def test_whole_numbers_may_be_written_as_people_write_them(text, value):
    for arguments in (["--env_frames", text], [f"--env_frames={text}"]):
        assert repr(parse_overrides(arguments, "debug").env_frames) == repr(value)


def test_texts_on_the_command_line_stay_texts():
    config = parse_overrides(
        ["--device", "1e5", "--size", "null", "--compile", "yes", "--sac.gradient_steps", "-1"], "debug"
    )
    assert (config.device, config.size, config.compile, config.sac.gradient_steps) == ("1e5", None, True, -1)


@pytest.mark.parametrize("beta", [0.5, [[0.0, 0.0], [5000.0, 1.0]]])
def test_beta_is_a_number_or_points_on_the_command_line_and_in_a_file(tmp_path, beta):
    config = parse_overrides(["--losses.beta", str(beta)], "cpu")
    assert config.losses.beta == beta
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert make_config("cpu", overrides={"losses.beta": beta}) == config


@pytest.mark.parametrize("beta", ["often", [[0, "a"]], [[0, 1], [0, 2]], None])
def test_a_broken_beta_in_a_file_is_one_line(beta):
    with pytest.raises(ValueError, match=r"losses\.beta: got") as caught:
        make_config("cpu", overrides={"losses.beta": beta})
    assert "\n" not in str(caught.value)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="nearest known one is 'cpu'"):
        make_config("cpi")


def test_empty_task_is_refused():
    with pytest.raises(ValueError, match="task"):
        make_config("cpu", "")


def test_yaml_round_trip(tmp_path):
    config = make_config("cpu", "walker_walk", {"replay.capacity_gb": 1.5, "seed": 3})
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("text", ["{", "replay: 3", "no_such_key: 1", "[1, 2]"])
def test_a_foreign_config_file_is_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"expected|unknown|YAML") as caught:
        load_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


def test_differences_leave_out_what_may_change_at_a_resume():
    old = make_config("cpu", "walker_walk")
    assert differences(old, make_config("cpu", "walker_walk", {"env_frames": 7, "device": "cpu"})) == []
    assert differences(old, make_config("cpu", "walker_walk", {"seed": 1})) == ["seed: 0 -> 1"]
    assert isinstance(old, Config)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, 16),
        ({"behavior.every": 3}, 48),
        ({"world_model.use_rgb": False}, 1),
        ({"world_model.use_rgb": False, "behavior.every": 2}, 2),
    ],
)
def test_a_round_of_updates_holds_whole_solves_and_whole_steps_of_the_actor(overrides, expected):
    assert make_config("cpu", "walker_walk", overrides).update_round == expected


# ---------------------------------------------------------------- sizes

SIZES = {"10m": 10.5e6, "18m": 17.9e6}  # trainable parameters of r2dreamer's size12M and of dreamerv3-torch


@pytest.mark.parametrize(("size", "expected"), SIZES.items())
@pytest.mark.parametrize(("preset", "task"), [("cpu", "walker_walk"), ("gpu", "walker_walk"), ("cpu", "reaching")])
def test_a_size_has_its_number_of_parameters_over_every_preset(size, expected, preset, task):
    config = make_config(preset, task, {"size": size, "device": "cpu"})
    assert (config.size, config.preset) == (size, preset)
    agent = Agent(config, action_dim=6)
    assert config.world_model.perceiver_config.enabled
    assert config.world_model.attention_config.enabled
    assert config.world_model.use_rgb
    networks = agent.actor_critic
    trained = [*agent.model.parameters(), *networks.actor.parameters(), *networks.critic.parameters()]
    count = sum(p.numel() for p in trained if p.requires_grad)
    assert count == pytest.approx(expected, rel=0.03)
    assert agent.num_parameters == count  # what a run prints


def test_a_size_changes_widths_alone_and_overrides_win_over_it():
    plain = make_config("cpu", "cartpole_swingup")
    sized = make_config("cpu", "cartpole_swingup", {"world_model.latent_dim": 7, "size": "10m"})
    assert sized.world_model.latent_dim == 7
    assert sized.world_model.hidden_dim == make_config("gpu", None, {"size": "10m"}).world_model.hidden_dim
    for block in ("env", "replay", "losses", "optimizer", "train"):
        assert getattr(sized, block) == getattr(plain, block)
    assert sized.world_model.rgb_config == plain.world_model.rgb_config
    assert sized.world_model.decoder_config.train_fraction == plain.world_model.decoder_config.train_fraction
    assert sized.behavior.start_fraction == plain.behavior.start_fraction
    assert plain.size is None


@pytest.mark.parametrize(
    "arguments",
    [["--size", "18m", "--behavior.hidden_dim=99"], ["--behavior.hidden_dim", "99", "--size=18m"]],
)
def test_size_on_the_command_line_is_the_same_as_in_python_wherever_it_stands(arguments):
    config = parse_overrides(arguments, "cpu", "walker_walk")
    assert config == make_config("cpu", "walker_walk", {"size": "18m", "behavior.hidden_dim": 99})
    assert config.behavior.hidden_dim == 99
    assert parse_overrides(["--size", "null"], "cpu") == make_config("cpu")


@pytest.mark.parametrize("make", [lambda size: parse_overrides(["--size", size], "cpu"),
                                  lambda size: make_config("cpu", None, {"size": size})])  # fmt: skip
def test_an_unknown_size_names_the_nearest(make):
    with pytest.raises(ValueError, match="unknown size '10'; the nearest known one is '10m'"):
        make("10")


def test_a_run_goes_on_with_the_widths_it_was_saved_with(tmp_path):
    path = tmp_path / "config.yaml"
    save_config(make_config("debug", None, {"size": "10m", "world_model.hidden_dim": 24}), path)
    text = path.read_text().replace("size: 10m", "size: of_another_version")  # what a size means may change
    path.write_text(text)
    assert load_config(path).world_model.hidden_dim == 24
    assert load_config(path).behavior == make_config("debug", None, {"size": "10m"}).behavior
    again = resumed_config(load_config(path), tmp_path, Namespace(preset=None, task=None), ["--env_frames", "7"])
    assert again.world_model == load_config(path).world_model
    with pytest.raises(ValueError, match="size: of_another_version -> 18m"):
        resumed_config(load_config(path), tmp_path, Namespace(preset=None, task=None), ["--size", "18m"])
