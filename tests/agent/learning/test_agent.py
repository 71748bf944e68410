"""Acting, predict in Stable-Baselines3's manner, updates, and state round trips."""

import copy

import numpy as np
import pytest
import torch

from agent import Agent, load, make_config
from agent.learning.agent import choose_device
from agent.learning.frames import to_frames
from agent.run_folder.contents import check_agent
from replay import Chunk


def random_chunk(seed=0, batch=2, length=8, action_dim=2):
    rng = np.random.default_rng(seed)
    is_first = np.zeros((batch, length), bool)
    is_first[0, 3] = True
    return Chunk(
        image=torch.from_numpy(rng.integers(0, 256, (batch, length, 64, 64, 3), dtype=np.uint8)),
        reward=torch.from_numpy(rng.random((batch, length), dtype=np.float32)),
        is_first=torch.from_numpy(is_first),
        is_last=torch.from_numpy(np.roll(is_first, -1, 1)),
        is_terminal=torch.from_numpy(np.roll(is_first, -1, 1)),
        action=torch.from_numpy(rng.uniform(-1, 1, (batch, length, action_dim)).astype(np.float32)),
    )


@pytest.fixture
def agent():
    return Agent(make_config("debug"), action_dim=2)


def weights_of(part):
    return torch.nn.utils.parameters_to_vector(part.parameters()).detach()


def frames(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def test_frames_are_scaled_and_moved_once():
    image = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    image[0, 5, 7, 2] = 255
    result = to_frames(image)
    assert result.shape == (2, 3, 64, 64)
    assert result[0, 2, 5, 7] == 1.0
    assert result.sum() == 1.0


def test_deterministic_actions_repeat_and_sampled_ones_vary(agent):
    first = np.ones(3, bool)
    images = frames(3)
    calls = {
        mode: [agent.act(images, first, agent.initial_state(3), mode)[0] for _ in range(2)]
        for mode in ("deterministic", "sample", "collect")
    }
    assert (calls["deterministic"][0] == calls["deterministic"][1]).all()
    for mode in ("sample", "collect"):
        assert (calls[mode][0] != calls[mode][1]).any()
    for actions in calls.values():
        assert actions[0].dtype == np.float32
        assert np.abs(actions[0]).max() <= 1


def test_rows_of_a_batch_do_not_see_each_other(agent):
    images, first = frames(3), np.ones(3, bool)
    together, _ = agent.act(images, first, agent.initial_state(3), "deterministic")
    for i in range(3):
        alone, _ = agent.act(images[i : i + 1], first[:1], agent.initial_state(1), "deterministic")
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


def test_memory_forgets_at_an_episodes_start(agent):
    memory = agent.initial_state(1)
    for seed in range(3):
        _, memory = agent.act(frames(1, seed), np.array([seed == 0]), memory, "deterministic")
    image = frames(1, seed=9)
    fresh, _ = agent.act(image, np.array([True]), agent.initial_state(1), "deterministic")
    reset, _ = agent.act(image, np.array([True]), memory, "deterministic")
    carried, _ = agent.act(image, np.array([False]), memory, "deterministic")
    np.testing.assert_allclose(reset, fresh, atol=1e-6)
    assert (carried != fresh).any()


def test_an_update_changes_weights_but_not_the_chunk(agent):
    chunk = random_chunk()
    copies = [tensor.clone() for tensor in chunk.fields().values()]
    before = {name: p.detach().clone() for name, p in agent.model.named_parameters()}
    metrics = [agent.update(chunk) for _ in range(2)][-1]
    for old, new in zip(copies, chunk.fields().values(), strict=True):
        assert torch.equal(old, new)
    assert any(not torch.equal(p, before[name]) for name, p in agent.model.named_parameters())
    assert all(torch.isfinite(value).all() for value in metrics.values())
    assert metrics["rgb_skipped"] == 0
    assert agent.updates == 2


def test_actor_and_critic_learn_at_every_nth_update():
    agent, chunk = Agent(make_config("debug", overrides={"behavior.every": 3}), action_dim=2), random_chunk()
    parts = {"model": agent.model, "actor": agent.actor_critic.actor, "critic": agent.actor_critic.critic}
    learned = {name: [] for name in parts}
    for _ in range(7):
        before = {name: weights_of(part) for name, part in parts.items()}
        metrics = agent.update(chunk)
        for name, part in parts.items():
            learned[name].append(not torch.equal(before[name], weights_of(part)))
        assert ("actor_loss" in metrics) == learned["actor"][-1]
    assert learned["model"] == [True] * 7
    assert learned["actor"] == learned["critic"] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("matrix_lr", [0.0, 1e-3])
def test_state_round_trip_continues_bit_for_bit(matrix_lr):
    agent, other = (
        Agent(make_config("debug", overrides={"optimizer.matrix_lr": matrix_lr, "seed": seed}), action_dim=2)
        for seed in range(2)
    )
    for seed in range(3):
        agent.update(random_chunk(seed))
    state = copy.deepcopy(agent.state_dict())  # as if it had gone through a file
    check_agent(state, other)
    other.load_state_dict(state)
    for seed in range(3, 6):
        left, right = agent.update(random_chunk(seed)), other.update(random_chunk(seed))
    assert all(torch.equal(left[name], right[name]) for name in left)
    for a, b in zip(agent.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_saved_state_is_plain_data(agent, tmp_path):
    agent.update(random_chunk())
    torch.save(agent.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    Agent(make_config("debug"), action_dim=2).load_state_dict(loaded)


def test_weights_of_another_model_are_one_line(agent):
    other = Agent(make_config("debug", overrides={"world_model.hidden_dim": 24}), action_dim=2)
    with pytest.raises(ValueError, match="checkpoint: its weights do not fit") as caught:
        agent.load_state_dict(other.state_dict())
    assert "\n" not in str(caught.value)


def test_building_an_agent_leaves_the_global_seed_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Agent(make_config("debug"), action_dim=1)
    assert torch.equal(torch.rand(2), expected)


def test_learning_rates_warm_up():
    agent = Agent(make_config("debug", overrides={"optimizer.warmup_updates": 4}), action_dim=2)
    rates = []
    for seed in range(5):
        agent.update(random_chunk(seed))
        rates.append(agent.model_learner.optimizer.param_groups[0]["lr"] / agent.config.optimizer.model_lr)
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("anneal", "expected"), [(0.4, [1, 1, 0.55, 0.1, 0.1]), (1.0, [1, 0.46, 0.28, 0.1, 0.1]), (0.0, [1] * 5)]
)
def test_learning_rates_fall_to_a_tenth_over_the_last_share_of_a_run(anneal, expected):
    overrides = {"optimizer.warmup_updates": 1, "optimizer.anneal": anneal, "optimizer.matrix_lr": 1e-3}
    agent = Agent(make_config("debug", overrides=overrides), action_dim=2)
    before = agent.config.optimizer
    for progress, factor in zip((0.0, 0.6, 0.8, 1.0, 1.02), expected, strict=True):
        agent.progress = progress
        agent.update(random_chunk())
        actor, critic = agent.behavior_learner.optimizer.param_groups
        found = [group["lr"] for group in (*agent.model_learner.optimizer.param_groups, actor, critic)]
        rates = (before.model_lr, before.matrix_lr, before.actor_lr, before.critic_lr)
        assert found == pytest.approx([factor * rate for rate in rates])


def test_beta_follows_its_schedule_by_the_update_counter():
    """Only the ELBO's two KLs and the attention KL carry beta; what beta was is found from a total and its parts."""
    points = [[0, 0.0], [2, 1.0]]
    agent = Agent(make_config("debug", overrides={"losses.beta": points, "losses.entropy_weight": 0.0}), action_dim=2)
    losses = agent.config.losses
    for seed, expected in enumerate([0.0, 0.5, 1.0, 1.0]):
        metrics = agent.update(random_chunk(seed))
        assert metrics["beta"] == expected
        rest = metrics["recon_loss"] * losses.lambda_recon + metrics["gram_enc_loss"] * losses.lambda_gram
        weighted = metrics["kl_z"] + losses.hier_scale * metrics["hierarchical_kl"]
        assert metrics["total_elbo"].item() == pytest.approx((rest + expected * weighted).item(), rel=1e-4)
    assert "beta" not in Agent(make_config("debug"), action_dim=2).update(random_chunk())


def test_any_weight_of_the_losses_may_follow_a_schedule():
    """Two updates apart a frame is worth three times as much: found from a total and its parts."""
    changes = {"losses.lambda_recon": [[0, 1.0], [2, 3.0]], "losses.entropy_weight": 0.0, "losses.beta": 0.0}
    agent = Agent(make_config("debug", overrides=changes), action_dim=2)
    for seed, expected in enumerate([1.0, 2.0, 3.0, 3.0]):
        metrics = agent.update(random_chunk(seed))
        assert metrics["lambda_recon"] == expected
        total = expected * metrics["recon_loss"] + agent.config.losses.lambda_gram * metrics["gram_enc_loss"]
        assert metrics["total_elbo"].item() == pytest.approx(total.item(), rel=1e-4)
    assert "beta" not in metrics


@pytest.mark.parametrize("name", ["quantum", "cuda:x"])
def test_unknown_device_is_one_line(name):
    with pytest.raises(ValueError, match="device: got"):
        choose_device(name)


def test_load_without_a_run_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder with a run"):
        load(tmp_path)
