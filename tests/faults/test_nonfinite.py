"""Numbers that are not finite are skipped, named and kept; when skipping does not help, the run goes back once."""

import pytest
import torch

import run_agent
from agent import Trainer, make_config
from agent.config.files import load_config
from agent.learning.agent import Agent
from agent.learning.errors import NotFinite
from agent.run_folder.checkpoint import checkpoint_paths, load_checkpoint, load_newest
from agent.run_folder.logger import read_metrics
from agent.training.guard import Guard
from benchmarks.reliability import injection
from replay import Chunk
from tests.agent.learning import small_agent

# One update a frame: 5 before the evaluation and its checkpoint, 6 after.
SETTINGS = {"env_frames": 71, "replay.prefill_frames": 60, "train.train_ratio": 16, "train.eval_every": 65}
SETTINGS |= {"train.eval_episodes": 1, "train.video_frames": 0, "train.log_every": 1, "train.max_skipped": 3}


def trained(logdir, **changes):
    trainer = Trainer(make_config("debug", "reaching", SETTINGS | {"env.num_envs": 1} | changes), logdir, quiet=True)
    trainer.run()
    return trainer


def weights(module):
    """What an optimizer moves."""
    return {name: value.clone() for name, value in module.named_parameters() if value.requires_grad}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def all_finite(agent: Agent):
    modules = (agent.model, agent.actor_critic)
    return all(bool(torch.isfinite(x).all()) for module in modules for x in module.state_dict().values())


@pytest.fixture(scope="module")
def learner() -> tuple[Agent, Chunk]:
    """An agent with the optional losses that has made an update of the chunk, which may follow again and again."""
    optional = {"encoder_config__motion_dim": 8, "overshoot": 4, "slow_config__every": 4, "vector_dim": 3}
    agent = small_agent.make_agent(**{f"world_model__{key}": value for key, value in optional.items()})
    chunk = small_agent.make_chunk(2, 8)._replace(vector=torch.linspace(-2, 2, 48).view(2, 8, 3))
    agent.update(chunk)
    return agent, chunk


@pytest.mark.parametrize("name", injection.LOSSES)
def test_each_loss_is_skipped_and_named(tmp_path, learner, name):
    (agent, chunk), notes = learner, []
    guard, updates = Guard(tmp_path, 10, notes.append), agent.updates
    part = agent.actor_critic if name in ("actor_loss", "critic_loss") else agent.model
    before = weights(part)
    with injection.nan_in_loss(name, range(1, 2)) as found:
        guard.update(agent, chunk)
        is_kept = same(before, weights(part))
        guard.update(agent, chunk)
    if not found:  # the debug preset has no gram loss
        assert name == "gram_enc_loss"
        return
    assert guard.skipped == 1
    assert guard.in_a_row == 0
    assert is_kept
    assert not same(before, weights(part))  # the next update learned
    assert all_finite(agent)
    guard.finish(agent)
    path = tmp_path / "faults" / f"{updates + 1:09d}.pt"
    assert notes == [f"update {updates + 1}: skipped, not finite: {name}; its batch and the agent: {path}"]
    assert load_checkpoint(path)["fault"] == name


def spoiled(chunk: Chunk) -> Chunk:
    reward = chunk.reward.clone()
    reward[0, 3] = torch.nan
    return chunk._replace(reward=reward)


def test_a_dump_shows_the_fault_again(tmp_path):
    agent, chunk, notes = small_agent.make_agent(), small_agent.make_chunk(2, 8), []
    guard = Guard(tmp_path, 10, notes.append)
    for batch in (chunk, spoiled(chunk)):
        guard.update(agent, batch)
    assert "reward_nll" in notes[0]
    dump = load_checkpoint(tmp_path / "faults" / "000000002.pt")
    again = small_agent.make_agent(seed=7)
    again.load_state_dict(dump["agent"])
    metrics = again.update(Chunk(**dump["chunk"]))
    assert not torch.isfinite(metrics["reward_nll"])
    fresh = small_agent.make_agent()
    fresh.update(chunk)
    # The same weights and random numbers; running statistics of frames have seen the chunk once more.
    assert float(fresh.update(spoiled(chunk))["recon_loss"]) == pytest.approx(float(metrics["recon_loss"]), rel=1e-4)


def test_flags_that_are_read_late_name_the_right_update(tmp_path):
    agent, chunk, notes = small_agent.make_agent(), small_agent.make_chunk(2, 8), []
    guard = Guard(tmp_path, 10, notes.append, late=2)
    batches = [chunk, spoiled(chunk), chunk, chunk]
    seen = []
    for batch in batches:
        guard.update(agent, batch)
        seen.append(guard.skipped)
    assert seen == [0, 0, 0, 1]
    dump = load_checkpoint(tmp_path / "faults" / "000000002.pt")
    torch.testing.assert_close(dump["chunk"]["reward"], batches[1].reward, rtol=0, atol=0, equal_nan=True)
    guard.update(agent, spoiled(chunk))
    guard.finish(agent)  # before a checkpoint nothing is left unread
    assert guard.skipped == 2


def test_too_many_in_a_row_are_too_many_and_three_dumps_stay(tmp_path):
    agent, chunk, notes = small_agent.make_agent(), small_agent.make_chunk(2, 8), []
    guard = Guard(tmp_path, 3, notes.append)
    for _ in range(4):
        guard.update(agent, spoiled(chunk))
        guard.update(agent, spoiled(chunk))
        guard.update(agent, chunk)
    assert guard.skipped == 8
    assert len(notes) == 4  # one line for each time
    assert [path.stem for path in checkpoint_paths(tmp_path / "faults")] == ["000000004", "000000007", "000000010"]
    guard.update(agent, spoiled(chunk))
    guard.update(agent, spoiled(chunk))
    with pytest.raises(NotFinite, match=r"^3 updates in a row were skipped, the last for reward_nll"):
        guard.update(agent, spoiled(chunk))


def test_an_actor_that_learns_at_every_other_update_may_break_too_often(tmp_path):
    agent, chunk = small_agent.make_agent(behavior__every=2), small_agent.make_chunk(2, 8)
    guard = Guard(tmp_path, 3, lambda line: None)
    with injection.nan_in_loss("actor_loss", range(2, 99)):
        for _ in range(6):  # learns, -, skipped, -, skipped, -
            guard.update(agent, chunk)
        assert (guard.skipped, guard.in_a_row) == (2, 2)
        with pytest.raises(NotFinite, match=r"^3 updates in a row were skipped, the last for actor_loss"):
            guard.update(agent, chunk)


@pytest.mark.parametrize("place", ["model", "actor_critic"])
def test_weights_that_are_not_finite_are_no_checkpoint(tmp_path, place):
    agent = small_agent.make_agent()
    guard = Guard(tmp_path, 3, lambda line: None)
    guard.finish(agent)
    with torch.no_grad():
        next(getattr(agent, place).parameters()).view(-1)[0] = torch.nan
    with pytest.raises(NotFinite, match=r"^weights are not finite"):
        guard.finish(agent)


def test_a_run_skips_once_and_counts_it(tmp_path):
    with injection.nan_in_loss("kl_z", range(4, 5)):
        trainer = trained(tmp_path)
    assert not trainer.has_failed
    counts = [row["skipped_updates"] for row in read_metrics(tmp_path / "metrics.jsonl") if "skipped_updates" in row]
    assert counts[2:5] == [0, 1, 1]
    assert counts[-1] == 1
    assert load_newest(tmp_path / "checkpoints")[0]["guard"] == {"skipped": 1, "in_a_row": 0}


def test_trouble_that_ends_is_left_behind_with_lower_learning_rates(tmp_path):
    with injection.nan_in_loss("recon_loss", range(7, 10)):
        trainer = trained(tmp_path)
    assert not trainer.has_failed
    assert trainer.env_frames == SETTINGS["env_frames"]
    config = load_config(tmp_path / "config.yaml")
    assert config.optimizer.lr_factor == pytest.approx(0.3)
    assert trainer.agent.model_learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * config.optimizer.model_lr)
    assert trainer.guard.skipped == 0  # those of the time that was left behind do not count
    updates = [row["updates"] for row in read_metrics(tmp_path / "metrics.jsonl") if "recon_loss" in row]
    assert updates == list(range(1, updates[-1] + 1))  # each update once


@pytest.mark.parametrize("first", [7, 1])  # after the checkpoint of the evaluation, and before there is one
def test_trouble_that_stays_ends_the_run_with_what_it_had_before(tmp_path, first, capsys):
    options = [f"--{name}={value}" for name, value in (SETTINGS | {"env.num_envs": 1}).items()]
    command = ["train", "--preset=debug", "--task=reaching", f"--logdir={tmp_path}", "--quiet", *options]
    with injection.nan_in_loss("recon_loss", range(first, 1000)):
        assert run_agent.main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("run_agent.py: error: 3 updates in a row were skipped, the last for recon_loss not being")
    assert error.count("\n") == 1
    assert load_config(tmp_path / "config.yaml").optimizer.lr_factor == pytest.approx(0.3)
    if first == 1:
        assert checkpoint_paths(tmp_path / "checkpoints") == []
        return
    payload = load_newest(tmp_path / "checkpoints")[0]
    assert payload["guard"] == {"skipped": 0, "in_a_row": 0}
    assert 0 < payload["agent"]["updates"] < first
    # When its cause is gone, the run goes on from there, with a factor of the user's.
    resume = ["train", f"--logdir={tmp_path}", "--resume", "--quiet", "--optimizer.lr_factor=0.1"]
    assert run_agent.main(resume) == 0
    assert load_newest(tmp_path / "checkpoints")[0]["counters"]["env_frames"] == SETTINGS["env_frames"]


@pytest.mark.parametrize("place", ["model", "actor_critic"])
def test_broken_weights_send_the_run_back(tmp_path, place):
    with injection.nan_in_weights(place, 7):
        trainer = trained(tmp_path)
    assert not trainer.has_failed
    assert trainer.env_frames == SETTINGS["env_frames"]
    assert all_finite(trainer.agent)
    assert trainer.config.optimizer.lr_factor == pytest.approx(0.3)


def test_an_action_that_is_not_finite_is_told_as_such():
    agent, chunk = small_agent.make_agent(), small_agent.make_chunk(1, 1)
    with torch.no_grad():
        next(agent.actor_critic.actor.parameters()).fill_(torch.nan)
    with pytest.raises(NotFinite, match=r"^the policy's actions are not finite$"):
        agent.predict(chunk.image[0].numpy())


def test_a_reward_that_is_not_finite_ends_its_episode_alone(tmp_path):
    with injection.failing_env("nan", range(63, 64)):
        trainer = trained(tmp_path)
    assert not trainer.has_failed
    assert [row["env_restarts"] for row in read_metrics(tmp_path / "metrics.jsonl") if "env_restarts" in row] == [1]
    assert trainer.guard.skipped == 0
