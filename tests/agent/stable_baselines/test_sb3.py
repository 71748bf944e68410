"""AIME as an algorithm of Stable-Baselines3: evaluate_policy, callbacks, rows of replay, saving, every bad input."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

from agent import AIME
from envs.counting import decode_frame
from tests.agent.stable_baselines.sb3_models import Scripted, counting, model_of, registered_choices, rows_of, weights

# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("is_terminating", [True, False])
def test_every_frame_is_a_row_with_the_action_that_was_taken_there(is_terminating):
    space = Box(np.array([0.0, -3.0], np.float32), np.array([4.0, -1.0], np.float32))
    envs = [Scripted(space, worker, length, is_terminating) for worker, length in ((0, 4), (1, 6))]
    model = model_of(DummyVecEnv([lambda env=env: env for env in envs]), replay={"prefill_frames": 20})
    model.learn(60)
    assert model.agent.updates > 0  # the policy's own actions are among them
    rows = rows_of(model)
    worker, episode, step = decode_frame(rows["image"])
    length = np.where(worker == 0, 4, 6)
    np.testing.assert_array_equal(rows["reward"], step)
    np.testing.assert_array_equal(rows["is_first"], step == 0)
    np.testing.assert_array_equal(rows["is_last"], step == length)
    np.testing.assert_array_equal(rows["is_terminal"], (step == length) & is_terminating)
    taken = {(i, e, t): action for i, env in enumerate(envs) for e, t, action in env.taken}
    assert len(worker) == 7 * 5 + 5 * 7  # 30 decisions each: 7 and 5 episodes, L + 1 rows
    for i, key in enumerate(zip(worker.tolist(), episode.tolist(), step.tolist(), strict=True)):
        if rows["is_last"][i]:
            assert not rows["action"][i].any()
        else:  # the middle of the bounds is 0 to the agent
            np.testing.assert_allclose(taken[key], [2 + 2 * rows["action"][i][0], -2 + rows["action"][i][1]], atol=1e-6)


def test_learning_rates_fall_with_the_timesteps_of_a_call():
    model = model_of(Scripted(Discrete(3)), replay={"prefill_frames": 20}, optimizer={"anneal": 0.5})
    group = model.agent.model_learner.optimizer.param_groups[0]
    for _ in range(2):
        model.learn(40, reset_num_timesteps=False)
        assert model.agent.progress > 0.85  # at the last update, which is a few timesteps before the end
        assert 0.1 < group["lr"] / model.config.optimizer.model_lr < 0.4


def test_discrete_actions_are_choices():
    env = Scripted(Discrete(3, start=5))
    model = model_of(env, replay={"prefill_frames": 20})
    model.learn(40)
    rows = rows_of(model)
    assert rows["action"].shape == (48, 3)
    assert set(rows["action"].sum(1)) == {0.0, 1.0}
    chosen = [int(action) for _, _, action in env.taken]
    assert set(chosen) == {5, 6, 7}
    np.testing.assert_array_equal(rows["action"][~rows["is_last"]].argmax(1) + 5, chosen)
    action, _ = model.predict(rows["image"][0], deterministic=True)
    assert env.action_space.contains(int(action))
    actions, _ = model.predict(rows["image"][:2])
    assert actions.shape == (2,)


def test_a_task_with_discrete_actions_takes_one_hot_vectors(tmp_path):
    with registered_choices() as made:
        model = model_of("gym:Choices-v0", overrides={"env.num_envs": 1, "replay.prefill_frames": 20}).learn(30)
        taken = [int(action) for env in made for _, _, action in env.taken]
        assert set(taken) == {0, 1, 2}
        action, _ = model.predict(np.zeros((64, 64, 3), np.uint8))
        assert sorted(action.tolist()) == [0.0, 0.0, 1.0]
        model.save(tmp_path / "model")
        assert AIME.load(tmp_path / "model").action_space == model.action_space


def test_learning_goes_on_over_calls_as_in_one():
    """Bit for bit; the debug preset makes 2 / 16 updates a timestep after 100 of prefill, in episodes of 10."""
    whole, parts = model_of(), model_of()
    whole.learn(140)
    for part, updates in ((100, 0), (24, 3), (16, 5)):
        parts.learn(part, reset_num_timesteps=False)
        assert parts.agent.updates == updates
    assert parts.num_timesteps == whole.num_timesteps == 140
    assert all(torch.equal(a, b) for a, b in zip(weights(whole.agent), weights(parts.agent), strict=True))
    rows = rows_of(parts)
    assert all(np.array_equal(rows[name], other) for name, other in rows_of(whole).items())
    other = model_of(seed=2).learn(110)
    assert any(not torch.equal(a, b) for a, b in zip(weights(whole.agent), weights(other.agent), strict=True))


def test_a_new_count_begins_new_episodes():
    model = model_of()
    model.learn(24)  # 12 decisions of each environment: 2 into the second episodes
    model.learn(24)
    assert model.num_timesteps == 24
    _, _, step = decode_frame(rows_of(model)["image"])
    assert sorted(np.flatnonzero(rows_of(model)["is_last"] & (step < 10))) == [23, 25]  # after 2 decisions
    assert not rows_of(model)["is_terminal"].any()


def test_a_step_that_was_interrupted_does_not_mix_episodes():
    env = Scripted(Box(-1, 1, (2,)))
    model = model_of(env)

    def interrupt(action):
        raise KeyboardInterrupt

    step, env.step = env.step, interrupt
    with pytest.raises(KeyboardInterrupt):
        model.learn(10)
    env.step = step
    model.learn(10, reset_num_timesteps=False)
    _, _, step = decode_frame(rows_of(model)["image"])
    np.testing.assert_array_equal(step, [*range(6), *range(6)])


# ---------------------------------------------------------------- callbacks and logs


def test_eval_callback_saves_the_best_model_and_a_threshold_stops(tmp_path):
    model = model_of()
    evaluation = VecTransposeImage(DummyVecEnv([counting]))
    stop = StopTrainingOnRewardThreshold(reward_threshold=55.0)
    callback = EvalCallback(evaluation, callback_on_new_best=stop, n_eval_episodes=2, eval_freq=30,
                            best_model_save_path=str(tmp_path), log_path=str(tmp_path), verbose=0)  # fmt: skip
    model.learn(1000, callback)
    assert model.num_timesteps == 60  # at its 30th call: a counting episode returns 1 + 2 + ... + 10
    assert callback.best_mean_reward == 55.0
    best = AIME.load(tmp_path / "best_model", device="cpu")
    frame = np.full((64, 64, 3), 7, np.uint8)
    np.testing.assert_array_equal(
        best.predict(frame, deterministic=True)[0], model.predict(frame, deterministic=True)[0]
    )
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [60]


@pytest.mark.filterwarnings("ignore:rich is experimental")  # Stable-Baselines3 ignores it, pytest does not
def test_callbacks_in_a_list_functions_and_the_progress_bar(tmp_path, capsys):
    seen = []

    def look(values, _):
        seen.append((len(values["infos"]), values["rewards"].shape, values["dones"].shape, values["actions"].shape))
        return len(seen) < 40

    model = model_of()
    model.learn(60, CallbackList([CheckpointCallback(10, str(tmp_path))]), progress_bar=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"rl_model_{steps}_steps.zip" for steps in (20, 40, 60)}
    assert AIME.load(tmp_path / "rl_model_40_steps").num_timesteps == 40
    model.learn(1000, look)
    assert set(seen) == {(2, (2,), (2,), (2, 2))}
    assert model.num_timesteps == 80
    assert "60/60" in capsys.readouterr().out


def test_the_log_holds_returns_lengths_and_losses(tmp_path):
    model = model_of()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(120, log_interval=6)
    model.logger.close()
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    assert (float(last["rollout/ep_rew_mean"]), float(last["rollout/ep_len_mean"])) == (55.0, 10.0)
    assert (int(last["time/episodes"]), int(last["time/total_timesteps"])) == (12, 120)
    assert float(last["train/total_elbo"]) > 0
    assert len(lines) == 1 + 2


def test_verbose_prints_a_short_table_and_tensorboard_gets_a_folder(tmp_path, capsys):
    model_of(verbose=1, tensorboard_log=str(tmp_path)).learn(140, tb_log_name="mine")
    assert (tmp_path / "mine_1").is_dir()
    text = capsys.readouterr().out
    assert "ep_rew_mean" in text
    assert "total_elbo" in text
    assert "rgb_alpha" not in text


# ---------------------------------------------------------------- saving


@pytest.mark.parametrize(
    ("name", "written"), [("model", "model.zip"), ("model.zip", "model.zip"), ("deep/a.pt", "a.pt")]
)
def test_a_name_without_a_suffix_gets_zip(tmp_path, name, written):
    model_of().save(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [written]
    assert AIME.load(tmp_path / name, device="cpu").agent.updates == 0


def test_a_saved_model_acts_the_same_and_learns_on(tmp_path):
    space = Box(0.0, 9.0, (2,), np.float32)
    model = model_of(Scripted(space, length=9)).learn(116)
    model.save(tmp_path / "model")
    alone = AIME.load(tmp_path / "model", device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    actions, expected = (m.predict(frames, deterministic=True)[0] for m in (alone, model))
    np.testing.assert_array_equal(actions, expected)
    assert (alone.action_space, alone.observation_space) == (model.action_space, model.observation_space)
    with pytest.raises(ValueError, match=r"^env: got none, expected one before learn\(\)"):
        alone.learn(10)
    assert model.agent.updates == 2
    alone.set_env(Scripted(space, length=9))
    for again in (alone, AIME.load(tmp_path / "model", Scripted(space, length=9), device="cpu")):
        again.learn(100, reset_num_timesteps=False)
        assert again.num_timesteps == 216
        assert again.agent.updates == 2  # an empty replay is filled first
        again.learn(16, reset_num_timesteps=False)
        assert again.agent.updates == 4


def test_parameters_go_through_a_dict():
    left, right = model_of(seed=1), model_of(seed=2)
    right.set_parameters(left.get_parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights(left.agent), weights(right.agent), strict=True))
