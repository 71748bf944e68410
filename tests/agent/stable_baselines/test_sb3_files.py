"""What AIME reads and writes: models under paths and in open files, runs of `train`, parameters, replay."""

import io
import os

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.callbacks import CheckpointCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agent import AIME, Trainer, load, make_config
from agent.run_folder.checkpoint import load_checkpoint, write_checkpoint
from tests.agent.stable_baselines.sb3_models import Scripted, counting, model_of, registered_choices, rows_of, weights

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(weights(left), weights(right), strict=True))


def choices(model):
    return model.predict(FRAMES, deterministic=True)[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = {"env_frames": 130, "env.num_envs": 1, "train.video_frames": 0}
    trainer = Trainer(make_config("debug", "counting", settings), folder, quiet=True)
    trainer.run()
    return folder, trainer.agent


@pytest.fixture(scope="module")
def learned():
    return model_of().learn(116)


# ---------------------------------------------------------------- runs and models


def test_a_run_of_train_loads_as_an_algorithm(run):
    folder, trained = run
    model = AIME.load(folder, device="cpu")
    assert model.agent.updates == trained.updates > 0
    assert same(model.agent, trained)
    np.testing.assert_array_equal(choices(model), choices(load(folder)))  # the average plays in both
    assert (model.num_timesteps, model.n_envs, model._episode_num) == (130, 1, 13)


@pytest.mark.parametrize("env", ["counting", counting])
def test_a_run_of_train_learns_on(run, env):
    folder, trained = run
    model = AIME.load(folder, env if isinstance(env, str) else env(), device="cpu")
    model.learn(140, reset_num_timesteps=False)
    assert model.num_timesteps == 270
    assert model.agent.updates > trained.updates


def test_a_run_of_discrete_actions_has_its_space(tmp_path):
    with registered_choices():
        settings = {"env_frames": 110, "env.num_envs": 1, "train.video_frames": 0}
        Trainer(make_config("debug", "gym:Choices-v0", settings), tmp_path, quiet=True).run()
        model = AIME.load(tmp_path, "gym:Choices-v0", device="cpu")
        assert sorted(model.predict(FRAMES[0])[0].tolist()) == [0.0, 0.0, 1.0]
        assert model.action_space == AIME("gym:Choices-v0", "debug", device="cpu").action_space


def test_a_saved_model_loads_as_an_agent(learned, tmp_path):
    learned.save(tmp_path / "model")
    for path in (tmp_path / "model", str(tmp_path / "model.zip")):
        agent = load(path, device="cpu")
        np.testing.assert_array_equal(choices(agent), choices(learned))
        assert agent.config == learned.config


def test_a_run_beside_a_file_of_its_name(learned, run, tmp_path):
    (tmp_path / "both").symlink_to(run[0])
    learned.save(tmp_path / "both.zip")
    assert AIME.load(tmp_path / "both").num_timesteps == 130
    assert AIME.load(tmp_path / "both.zip").num_timesteps == 116


def test_the_command_line_takes_runs_only(learned, tmp_path, capsys):
    from run_agent import main

    learned.save(tmp_path / "model")
    assert main(["evaluate", "--logdir", str(tmp_path / "model.zip"), "--json", str(tmp_path / "out")]) == 2
    assert "model.zip', a file, expected a run's folder; --agent reads files" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["model.zip"]


def test_a_model_goes_through_open_files(learned, tmp_path):
    memory = io.BytesIO()
    learned.save(memory)
    with open(tmp_path / "model", "wb") as file:
        learned.save(file)
    assert (tmp_path / "model").read_bytes() == memory.getvalue()
    with open(tmp_path / "model", "rb") as file:
        for place in (file, memory):  # memory is at its end, as Stable-Baselines3 allows
            assert same(AIME.load(place, device="cpu").agent, learned.agent)
            assert not place.closed
    assert load(memory, device="cpu").updates == learned.agent.updates


def shut(file):
    file.close()
    return file


@pytest.mark.parametrize(("file", "line"), [
    (lambda: io.StringIO(), "path: got a file opened for text, expected a path or a file opened for bytes"),
    (lambda: shut(io.BytesIO()), "path: got 'BytesIO', expected a file that is open for "),
    (lambda: 3, "path: got 3, expected a path or a file opened for bytes"),
    (lambda: None, "path: got None, expected a path or a file opened for bytes"),
])  # fmt: skip
def test_what_is_no_file_is_one_line(learned, file, line):
    uses = (learned.save, AIME.load, load, learned.set_parameters, learned.save_replay_buffer)
    for use in (*uses, learned.load_replay_buffer):
        with pytest.raises(ValueError, match=f"^{line}") as caught:
            use(file())
        assert "\n" not in str(caught.value)


def test_files_opened_the_other_way_round(learned, tmp_path):
    learned.save(tmp_path / "model.zip")
    with open(tmp_path / "model.zip", "rb") as file, pytest.raises(ValueError, match=r"open for writing$"):
        learned.save(file)
    with open(tmp_path / "other", "wb") as file, pytest.raises(ValueError, match=r"open for reading and seeking$"):
        AIME.load(file)
    with pytest.raises(ValueError, match=r"^checkpoint BytesIO: cut short, or not a checkpoint \(5 bytes\)$"):
        AIME.load(io.BytesIO(b"bytes"))


@pytest.mark.parametrize(("part", "value", "line"), [
    ("agent", {}, "agent.action_dim: got None"),
    ("action_space", {}, "space: got {}, expected one of a model's"),
    ("observation_space", {"kind": "Box", "low": 3}, "space: got .* expected one of a model's"),
    ("n_envs", 0, r"payload\.n_envs: got 0"),
    ("config", {"task": "counting"}, "agent: got a dict with 'average'"),
])  # fmt: skip
def test_forged_models_are_one_line(learned, tmp_path, part, value, line):
    learned.save(tmp_path / "model.zip")
    write_checkpoint(tmp_path / "forged.zip", load_checkpoint(tmp_path / "model.zip") | {part: value})
    with pytest.raises(ValueError, match=line) as caught:
        AIME.load(tmp_path / "forged.zip")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- parameters


def test_parameters_come_from_files_and_runs(learned, run, tmp_path):
    learned.save(tmp_path / "model.zip")
    memory = io.BytesIO()
    learned.save(memory)
    for place in (str(tmp_path / "model.zip"), tmp_path / "model", memory):
        model = model_of(seed=5)
        assert not same(model.agent, learned.agent)
        model.set_parameters(place)
        assert same(model.agent, learned.agent)
        np.testing.assert_array_equal(choices(model), choices(learned))
    model.set_parameters(run[0])
    assert same(model.agent, run[1])


def test_some_parameters_are_enough_where_they_need_not_match(learned):
    model = model_of(seed=5)
    before = [weight.clone() for weight in weights(model.agent)]
    own = learned.get_parameters()
    part = {"agent.actor_critic": own["agent.actor_critic"]}
    with pytest.raises(ValueError, match=r"^parameters: got a dict without 'agent.model', 'agent.average'"):
        model.set_parameters(part)
    model.set_parameters(part | {"agent.model": {"a_layer_of_another": torch.zeros(3)}}, exact_match=False)
    actors = zip(model.agent.actor_critic.state_dict().values(), own["agent.actor_critic"].values(), strict=True)
    assert all(torch.equal(a, b) for a, b in actors)
    count = len(model.agent.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights(model.agent)[:count], before[:count], strict=True))


@pytest.mark.parametrize("exact_match", [True, False])
def test_parameters_of_another_model_change_nothing(learned, exact_match):
    model = model_of(seed=5, behavior={"hidden_dim": 24})
    before = [weight.clone() for weight in weights(model.agent)]
    with pytest.raises(ValueError, match=r"^parameters\.agent\.actor_critic\..*: got torch") as caught:
        model.set_parameters(learned.get_parameters(), exact_match)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(weights(model.agent), before, strict=True))
    with pytest.raises(ValueError, match=r"^parameters: got 'policy', expected some of agent.model"):
        model.set_parameters({"policy": {}}, exact_match)


# ---------------------------------------------------------------- replay


def test_a_loaded_replay_is_learned_from_at_once(tmp_path):
    model = model_of()
    model.learn(126)  # 63 decisions of each environment: 6 episodes and 3 decisions
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    assert sorted(os.listdir(tmp_path)) == ["model.zip", "replay.pkl"]
    again = AIME.load(tmp_path / "model", "counting", device="cpu")
    again.load_replay_buffer(tmp_path / "replay")
    expected, found = rows_of(model), rows_of(again)
    whole = len(expected["reward"])
    assert whole == 2 * 6 * 11
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name][:whole], values)
    rest = {name: values[whole:] for name, values in found.items()}
    assert rest["is_last"].tolist() == 2 * [False, False, True]  # the episodes under way, cut off
    assert not rest["is_terminal"].any()
    assert not rest["action"][rest["is_last"]].any()
    updates = again.agent.updates
    again.learn(16, reset_num_timesteps=False)
    assert again.agent.updates == updates + 2
    assert again.num_timesteps == 142


def test_checkpoints_hold_the_replay_and_vec_normalize(tmp_path):
    envs = VecNormalize(DummyVecEnv([counting]), norm_obs=False)
    model = model_of(envs)
    callback = CheckpointCallback(60, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
    model.learn(120, callback)
    kinds = ("", "replay_buffer_", "vecnormalize_")
    steps = [f"rl_model_{kind}{count}_steps" for kind in kinds for count in (60, 120)]
    assert {path.stem for path in tmp_path.iterdir()} == set(steps)
    again = AIME.load(tmp_path / "rl_model_60_steps", counting(), device="cpu")
    again.load_replay_buffer(tmp_path / "rl_model_replay_buffer_60_steps.pkl")
    assert again.replay_buffer.num_episodes == 5 + 1  # the sixth was to end with this very step
    assert VecNormalize.load(tmp_path / "rl_model_vecnormalize_60_steps.pkl", DummyVecEnv([counting])).norm_reward
    assert model.get_vec_normalize_env() is envs


def test_a_full_replay_keeps_whole_episodes(tmp_path):
    model = model_of(counting(), replay={"capacity_steps": 50})
    model.learn(100)
    model.save_replay_buffer(tmp_path / "replay")
    again = model_of(counting(), replay={"capacity_steps": 50})
    again.load_replay_buffer(tmp_path / "replay")
    np.testing.assert_array_equal(rows_of(again)["image"], rows_of(model)["image"][-44:])


def test_a_replay_goes_through_open_files_and_is_checked(learned, tmp_path):
    memory = io.BytesIO()
    learned.save_replay_buffer(memory)
    other = model_of(seed=3)
    other.load_replay_buffer(memory)
    held = len(other.replay_buffer)
    assert held >= len(learned.replay_buffer) > 0
    damaged = bytearray(memory.getvalue())
    damaged[-9] ^= 1
    payload = load_checkpoint(memory)
    write_checkpoint(tmp_path / "cut.pkl", payload | {"episodes": [payload["episodes"][0][:-3]]})
    write_checkpoint(tmp_path / "none.pkl", payload | {"episodes": 3})
    learned.save(tmp_path / "model.zip")
    refused = {
        io.BytesIO(bytes(damaged)): "damaged",
        tmp_path / "cut.pkl": r"^episodes\[0\]: ",
        tmp_path / "none.pkl": r"^payload\.episodes: got 3",
        tmp_path / "model.zip": "another kind of file, expected a file that AIME.save_replay_buffer wrote",
    }
    for place, line in refused.items():
        with pytest.raises(ValueError, match=line) as caught:
            other.load_replay_buffer(place)
        assert "\n" not in str(caught.value)
        assert len(other.replay_buffer) == held
    with pytest.raises(FileNotFoundError, match=r"nothing', expected a file that AIME.save_replay_buffer wrote"):
        other.load_replay_buffer(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"another kind of file, expected a file that AIME.save wrote"):
        AIME.load(memory)


@pytest.mark.parametrize(("env", "settings", "line"), [
    (lambda: Scripted(Discrete(3)), {}, r"^episodes\[0\]: episode\.action"),
    (lambda: Scripted(Box(-1, 1, (2,))), {"replay": {"capacity_steps": 9}}, r"^episodes\[0\]: .*expected at most"),
])  # fmt: skip
def test_a_replay_of_another_model_is_refused(learned, env, settings, line):
    memory = io.BytesIO()
    learned.save_replay_buffer(memory)
    other = model_of(env(), **settings)
    with pytest.raises(ValueError, match=line):
        other.load_replay_buffer(memory)
    assert other.replay_buffer is None


def test_there_is_no_replay_before_learn():
    model = model_of()
    assert model.replay_buffer is None
    with pytest.raises(ValueError, match=r"^replay_buffer: got none, expected one from learn\(\)"):
        model.save_replay_buffer("replay")
