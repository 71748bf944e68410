"""planning: the simulator goes on exactly, what came is what came, and made-up scores are compared as by hand."""

import argparse

import numpy as np
import pytest
import torch

from agent import Agent, make_config
from agent.learning.frames import to_frames
from benchmarks.learning import planning

GIVEN = argparse.Namespace(points=4, candidates=6, horizon=3, spread=0.5, follow=5, length=12, seed=7)


@pytest.fixture(scope="module")
def agent() -> Agent:
    config = make_config("debug", "cartpole_balance", {"env.render": "fast"})
    return Agent(config, 1, "cpu")


def test_a_restored_simulator_goes_on_as_if_it_had_not_stopped(agent):
    simulator = planning.Simulator(agent)
    simulator.env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 1)).astype(np.float32)
    saved, states = simulator.state(), []
    for action in actions:
        image, reward, *_ = simulator.env.step(action)
        states.append((simulator.state(), reward, image.copy()))
    for i in (0, 1, 11, 29):  # the state before step i is that after step i - 1
        before = saved if i == 0 else states[i - 1][0]
        after, rewards, frames = simulator.step_each([before], torch.from_numpy(actions[i : i + 1]))
        np.testing.assert_allclose(after[0], states[i][0], rtol=1e-9, atol=1e-9)
        assert float(rewards) == pytest.approx(states[i][1], rel=1e-6)
        assert torch.equal(frames, to_frames(torch.from_numpy(states[i][2][None])))


@torch.no_grad()
def test_what_came_is_the_sum_over_both_legs_and_the_end(agent, monkeypatch):
    """The same actions, then the policy, played here step by step in an environment that is not interrupted."""
    judge, gamma = planning.Judge(agent, GIVEN), agent.config.behavior.gamma
    dream = judge._dream
    fixed = torch.linspace(-1, 1, GIVEN.candidates)[:, None, None].expand(-1, GIVEN.horizon, 1)
    monkeypatch.setattr(judge, "_dream", lambda starts: (fixed, dream(starts)[1]))
    point = next(judge.points())
    scores = judge.score(point)
    env, critic = planning.Simulator(agent), agent.actor_critic.critic.value
    env.env.reset(seed=GIVEN.seed)
    for candidate in (0, 4):
        env.restore(point.simulator)
        belief, memory, rewards = point.belief, point.memory, []
        for step in range(GIVEN.horizon + GIVEN.follow):
            played = fixed[candidate : candidate + 1, step] if step < GIVEN.horizon else None
            action = agent.choose(belief, "deterministic") if played is None else played
            image, reward, *_ = env.env.step(action[0].numpy())
            rewards.append(float(reward) * gamma**step)
            frames = to_frames(torch.from_numpy(image.copy())[None])
            memory = agent.model.remember(memory, belief, action)
            belief, memory = agent.model.observe_step(memory, frames, torch.tensor([False]), sample=False)
        end = float(critic(belief.features)) * gamma ** len(rewards)  # the slow critic begins as a copy
        assert float(scores.came[candidate]) == pytest.approx(sum(rewards) + end, rel=1e-4)
        assert float(scores.real_rewards[candidate]) == pytest.approx(sum(rewards[: GIVEN.horizon]), rel=1e-5)


@torch.no_grad()
def test_half_of_the_candidates_are_the_actors_and_the_first_is_its_mode(agent):
    judge = planning.Judge(agent, argparse.Namespace(**vars(GIVEN) | {"spread": 0.0}))
    points = list(judge.points())
    assert len(points) == GIVEN.points
    actions, dream = judge._dream(points[0].belief.map(lambda x: x.expand(6, *x.shape[1:])))
    assert actions.shape == (6, GIVEN.horizon, 1)
    assert dream.latent.shape[:2] == (6, GIVEN.horizon + 1)
    torch.testing.assert_close(actions[0, 0], agent.choose(points[0].belief, "deterministic")[0])
    assert (actions[1:3, 0] != actions[0, 0]).all()
    torch.testing.assert_close(actions[3:], actions[:1].expand(3, -1, -1))  # spread around the mode by nothing


def test_gains_and_ranks_of_made_up_scores():
    """Candidates 0 to 3 brought 1, 4, 3, 2; the dream thinks the reverse, real rewards know it."""
    came = torch.tensor([1.0, 4.0, 3.0, 2.0])
    nothing = torch.zeros(4)
    point = planning.Scores(
        dreamt_rewards=-came, dreamt_value=nothing, real_rewards=came, real_value=nothing, came=came
    )
    rows = {(row["candidates"], row["score"]): row for row in planning.compare([point, point])}
    assert rows["all", "dreamt rewards, dreamt value"]["gain"] == 0  # it likes the mode best
    assert rows["all", "dreamt rewards"]["rank correlation"] == pytest.approx(-1)
    assert rows["all", "real rewards, dreamt value"]["gain"] == pytest.approx(3)
    assert rows["all", "what came"]["rank correlation"] == pytest.approx(1)
    assert rows["actor's", "what came"]["gain"] == pytest.approx(3)  # the second candidate is the actor's
    apart = {(row["candidates"], row["of"]): row for row in planning.foretold([point._replace(real_value=came), point])}
    assert apart["all", "rewards"]["rank correlation"] == pytest.approx(-1)
    assert apart["all", "rewards"]["in reality"] == pytest.approx(np.std([1, 2, 3, 4], ddof=1))
    assert apart["all", "value"]["in reality"] == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    assert apart["actor's", "rewards"]["spread in the dream"] == pytest.approx(np.std([1, 4], ddof=1))
    far = point._replace(real_rewards=torch.tensor([1.0, 0.0, 3.0, 2.0]))
    rows = {(row["candidates"], row["score"]): row for row in planning.compare([far, far])}
    assert rows["all", "real rewards"]["gain"] == pytest.approx(2)
    assert rows["actor's", "real rewards"]["gain"] == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "logdir: got a run of 'counting', expected one of a task of the DeepMind Control suite"),
        (["--length", "5"], "length: got 5, expected at least 6"),
        (["--candidates", "3"], "candidates: got 3, expected at least 4"),
    ],
)
def test_bad_input_is_one_line(finished_run, options, line, capsys):
    assert planning.main([str(finished_run), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error
