"""SAC and PPO through run_agent.py: trained, stopped, gone on with, evaluated, recorded, and every bad input."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from agent import load, make_config
from agent.evaluation.episodes import agent_env, evaluate, play_episode
from agent.run_folder.checkpoint import load_newest
from agent.run_folder.load import load_agent
from agent.stable_baselines.baseline_trainer import BaselineTrainer
from agent.stable_baselines.baselines import ARRAYS, Baseline, make_model, stacked_envs
from benchmarks.reliability import injection
from envs.counting import CountingEnv
from run_agent import main
from tests.agent.stable_baselines.sb3_models import registered_choices

SMALL = {
    "sac": ["--sac.batch_size", "4"],
    "ppo": ["--ppo.n_steps", "8", "--ppo.batch_size", "8", "--ppo.n_epochs", "1"],
}


def train(algo, logdir, *options):
    """The exit status of a run on "counting" (2 environments, 10 decisions an episode)."""
    arguments = ["train", "--algo", algo, "--preset", "debug", "--logdir", str(logdir), "--quiet", *SMALL[algo]]
    return main([*arguments, *map(str, options)])


def lines(logdir):
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


def arrays(logdir):
    (folder,) = logdir.glob("replay-*")
    return {name: np.load(folder / f"{name}.npy") for name in ARRAYS}  # numpy refuses pickles by default


def weights(logdir):
    return Baseline.load(logdir, "cpu").algorithm.policy.state_dict()


@pytest.fixture(scope="module", params=["sac", "ppo"])
def run(request, tmp_path_factory):
    """A run that ended at 104 env_frames: (algo, folder)."""
    logdir = tmp_path_factory.mktemp(request.param) / "run"
    settings = ["--env_frames", 104, "--train.log_every", 2, "--train.eval_every", 52, "--replay.prefill_frames", 96]
    assert train(request.param, logdir, *settings) == 0
    return request.param, logdir


def test_the_records_are_those_of_our_own_runs(run):
    algo, logdir = run
    found = lines(logdir)
    assert all({"env_frames", "agent_steps", "updates", "wall_seconds"} <= row.keys() for row in found)
    returns = [(row["env_frames"], row["train_return"]) for row in found if "train_return" in row]
    assert returns == [(frames, 55.0) for frames in (20, 40, 60, 80, 100) for _ in range(2)]
    # SAC: one update a decision after the prefill; PPO: one for each 8 of the 16 rows of a rollout, of whole rollouts.
    frames, updates = (104, 8) if algo == "sac" else (112, 14)
    evaluations = [(row["env_frames"], row["updates"], row["eval_return"]) for row in found if "eval_return" in row]
    assert evaluations[-1] == (frames, updates, 55.0)
    assert any(f"{'actor' if algo == 'sac' else 'policy_gradient'}_loss" in row for row in found)
    assert load_newest(logdir / "checkpoints")[0]["counters"]["agent_steps"] == frames


def test_evaluate_and_record_work_and_dreams_are_refused(run, capsys):
    algo, logdir = run
    assert main(["evaluate", "--logdir", str(logdir), "--episodes", "2"]) == 0
    found = json.loads((logdir / "evaluation.json").read_text())
    assert found["deterministic"]["returns"] == found["sample"]["returns"] == [55.0, 55.0]
    assert found["updates"] == Baseline.load(logdir, "cpu").updates == (8 if algo == "sac" else 14)
    assert main(["record", "--logdir", str(logdir), "--size", "32"]) == 0
    assert (logdir / "videos" / "record.mp4").stat().st_size > 0
    capsys.readouterr()
    for kind in ("dream", "imagine"):
        assert main(["record", "--logdir", str(logdir), f"--{kind}"]) == 2
        assert "world model" in capsys.readouterr().err
        assert not (logdir / "videos" / f"{kind}.mp4").exists()
    with pytest.raises(ValueError, match=rf"got '{logdir}', a run of {algo}; agent\.load loads it"):
        load_agent(logdir)
    assert isinstance(load(logdir, "cpu"), Baseline)


def test_sampled_actions_depend_on_the_seed_and_leave_torch_as_it_was(run):
    player = Baseline.load(run[1], "cpu")
    before = torch.get_rng_state()
    actions = []
    for seed in (3, 3, 4):
        seen = []
        evaluate(player, 1, seed, "sample", lambda step, seen=seen: seen.append(step.action))
        actions.append(np.stack(seen))
    np.testing.assert_array_equal(actions[0], actions[1])
    assert (actions[0] != actions[2]).any()
    assert np.abs(actions[0]).max() <= 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("algo", ["sac", "ppo"])
def test_a_run_is_stopped_and_goes_on(algo, tmp_path, capsys):
    logdir = tmp_path / "run"
    settings = ["--env_frames", 32, "--replay.prefill_frames", 28]
    assert train(algo, logdir, *settings, "--max_minutes", 1e-9) == 0
    assert load_newest(logdir / "checkpoints")[0]["counters"]["env_frames"] == 0
    assert train(algo, logdir, *settings) == 0
    first, saved = load_newest(logdir / "checkpoints")[0], weights(logdir)
    rows = arrays(logdir) if algo == "sac" else {}
    assert train(algo, logdir, *settings) == 0  # nothing is left to do
    assert all(torch.equal(saved[name], value) for name, value in weights(logdir).items())
    assert train(algo, logdir, *settings, "--env_frames", 64) == 0
    second = load_newest(logdir / "checkpoints")[0]
    assert (first["counters"]["env_frames"], second["counters"]["env_frames"]) == (32, 64)
    assert second["counters"]["updates"] == first["counters"]["updates"] + (32 if algo == "sac" else 4)
    assert second["counters"]["wall_seconds"] > first["counters"]["wall_seconds"]
    assert any(not torch.equal(saved[name], value) for name, value in weights(logdir).items())
    for name, before in rows.items():
        after = arrays(logdir)[name]
        assert (len(before), len(after)) == (16, 32)  # of 2 environments each
        np.testing.assert_array_equal(after[:16], before)
    capsys.readouterr()
    assert main(["train", "--logdir", str(logdir), "--algo", "aime"]) == 2
    assert f"algo: {algo} -> aime" in capsys.readouterr().err


def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, monkeypatch):
    steps = []

    def after_step(self, infos, original=BaselineTrainer.after_step):
        steps.append(self.agent.algorithm.num_timesteps)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, infos)

    monkeypatch.setattr(BaselineTrainer, "after_step", after_step)
    assert train("sac", tmp_path / "run", "--env_frames", 1000) == 0
    assert steps == [2, 4, 6, 8, 10]
    assert load_newest(tmp_path / "run" / "checkpoints")[0]["counters"]["agent_steps"] == 10


def test_an_evaluation_that_fails_costs_itself_and_one_line(tmp_path, capsys):
    settings = ["--env_frames", 32, "--replay.prefill_frames", 28, "--train.eval_every", 30]
    with injection.failing_evaluation("make", since=1):
        assert train("sac", tmp_path / "run", *settings) == 0
    assert capsys.readouterr().err == ""
    assert load_newest(tmp_path / "run" / "checkpoints")[0]["counters"]["env_frames"] == 32
    assert not any("eval_return" in row for row in lines(tmp_path / "run"))


@pytest.mark.parametrize("algo", ["sac", "ppo"])
def test_an_environment_that_raises_leaves_a_checkpoint(algo, tmp_path, monkeypatch, capsys):
    logdir, steps = tmp_path / "run", []

    def advance(self, action, original=CountingEnv._advance):
        steps.append(1)
        if len(steps) == 40:
            raise FloatingPointError("the physics diverged")
        return original(self, action)

    monkeypatch.setattr(CountingEnv, "_advance", advance)
    settings = ["--env_frames", 64, "--replay.prefill_frames", 28]
    assert train(algo, logdir, *settings) == 1
    error = capsys.readouterr().err
    assert error.startswith("run_agent.py: error: FloatingPointError: the physics diverged; its traceback is in ")
    assert error.count("\n") == 1
    assert load_newest(logdir / "checkpoints")[0]["counters"]["env_frames"] == 38
    assert train(algo, logdir, *settings) == 0
    assert load_newest(logdir / "checkpoints")[0]["counters"]["env_frames"] >= 64


def test_sac_keeps_its_place_in_a_full_buffer(tmp_path):
    """A buffer of 10 rows of 2 environments: after 13 of them the oldest is row 3."""
    logdir, bound = tmp_path / "run", ["--sac.buffer_gb", 20 * 73_728 / 2**30, "--replay.prefill_frames", 26]
    assert train("sac", logdir, "--env_frames", 26, *bound) == 0
    before = arrays(logdir)["rewards"]
    assert train("sac", logdir, "--env_frames", 30, *bound) == 0
    after = arrays(logdir)["rewards"]
    assert before.tolist() == [[1.0] * 2, [2.0] * 2, [3.0] * 2, *([float(i)] * 2 for i in range(4, 11))]
    assert after.tolist() == [
        [1.0] * 2,
        [2.0] * 2,
        [3.0] * 2,
        [1.0] * 2,
        [2.0] * 2,
        *([float(i)] * 2 for i in range(6, 11)),
    ]


def test_a_baseline_is_played_on_the_stacks_that_it_is_trained_on():
    seen = []

    class Algorithm:
        device, action_space = torch.device("cpu"), None

        def predict(self, observation, deterministic):
            seen.append(observation)
            return np.zeros((1, 2)), None

    config = make_config("debug", overrides={"env.num_envs": 1})
    envs = stacked_envs(config)
    envs.seed(3)
    expected = [envs.reset(), *(envs.step(np.zeros((1, 2)))[0] for _ in range(4))]
    with agent_env(config) as env:
        play_episode(Baseline(Algorithm(), config), env, 3, max_steps=5)
    assert all(np.array_equal(left, right) for left, right in zip(seen[:5], expected, strict=True))
    envs.close()


def test_a_new_episode_begins_with_black_frames():
    config = make_config("debug", overrides={"env.num_envs": 1, "algo": "ppo"})
    envs = stacked_envs(config)
    player = Baseline(make_model(config, envs, torch.device("cpu"), 1), config)
    envs.close()
    frames = np.random.default_rng(0).integers(1, 256, (2, 64, 64, 3), dtype=np.uint8)
    _, state = player.act(frames, np.ones(2, bool), player.initial_state(2), "deterministic")
    _, state = player.act(frames, np.array([True, False]), state, "deterministic")
    assert not state[0, ..., :6].any()
    np.testing.assert_array_equal(state[1, ..., 3:6], frames[1])


def test_ppo_chooses_among_discrete_actions_and_sac_refuses_them(tmp_path, capsys):
    with registered_choices() as made:
        assert train("ppo", tmp_path / "run", "--task", "gym:Choices-v0", "--env_frames", 32) == 0
        assert {int(action) for env in made for _, _, action in env.taken} == {0, 1, 2}
        assert main(["evaluate", "--logdir", str(tmp_path / "run"), "--episodes", "1"]) == 0
        assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["sample"]["returns"] == [
            15.0
        ]  # 1 + ... + 5
        capsys.readouterr()
        assert train("sac", tmp_path / "sac", "--task", "gym:Choices-v0") == 2
    line = "algo: got 'sac' for the discrete actions of gym:Choices-v0, expected aime or ppo"
    assert capsys.readouterr().err == f"run_agent.py: error: {line}\n"


@pytest.mark.parametrize(("options", "line"), [
    (["--algo", "td3"], "algo"),
    (["--algo", "ppo", "--ppo.n_steps", "10", "--ppo.batch_size", "4"], "ppo.n_steps, batch_size: got (10, 4)"),
    (["--algo", "sac", "--sac.buffer_gb", "1e9", "--env_frames", "1000000000000"], "sac.buffer_gb"),
    (["--algo", "sac", "--sac.buffer_gb", "-1"], "sac.buffer_gb: got -1.0, expected a positive number"),
])  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(options, line, tmp_path, capsys):
    assert main(["train", "--preset", "debug", "--logdir", str(tmp_path / "run"), *options]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
