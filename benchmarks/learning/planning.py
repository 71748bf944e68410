"""Why planning in a trained run's world model pays or not: scores of action sequences beside what came of them.

    python -m benchmarks.learning.planning runs/walker_walk [--points 40] [--candidates 32] [--horizon 5] [--follow 60]
        [--json out.json]

The agent plays held-out episodes of a DeepMind Control task by its policy. At points all along them the world model
dreams `candidates` sequences of actions, as its planner would: half are the actor's, the first of which is its mode,
the others are spread around that mode by `spread`. The simulator then plays every one of them from the very same state
and goes on by the policy for `follow` steps. What came is the discounted sum of these rewards, with the critic's value
at their end.

A score is the sum of a sequence's rewards and the value of its end. Either may be dreamt or real; a real value is the
critic's of the state that the model infers from the frames that came. For every score: what came of the sequence that
it likes best beyond what came of the actor's mode (mean over the points, bootstrap interval of 95 %), and the rank
correlation with what came. Where real rewards help, the model's rewards are at fault; where real ends help, its
dynamics; where neither does, the critic; and where the best sequence gains little there is nothing to be found. A
second table sets the dream beside reality whatever it is worth: the sums of rewards and the end values.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import spearmanr
from torch import Tensor

from agent import load
from agent.evaluation.episodes import seeded
from agent.evaluation.statistics import bootstrap_interval
from agent.learning.agent import Agent
from agent.learning.frames import to_frames
from agent.learning.planner import least_value, repeat_noise
from benchmarks.harness.command import Command, Report, rows_table
from benchmarks.learning.results import HELD_OUT_SEED
from envs import make_env
from envs.dmc import DMCPixels
from envs.tasks import SUITE_TASKS, base_task
from world_model.state import Memory, State

ALL = mujoco.mjtState.mjSTATE_INTEGRATION  # all that the simulator needs to go on exactly
CONTEXT, PER_EPISODE = 5, 10  # frames seen before the first point of an episode; its points
FAMILIES = {"all": 1.0, "actor's": 0.5}  # share of the candidates


class Point(NamedTuple):
    """A moment of an episode at which a plan could be made."""

    simulator: NDArray[np.float64]
    belief: State  # [1, ...]
    memory: Memory  # before the action's effect on the carry


class Scores(NamedTuple):
    """The candidates of one point, each [K]: rewards and end values (discounted), dreamt and real, and what came."""

    dreamt_rewards: Tensor
    dreamt_value: Tensor
    real_rewards: Tensor
    real_value: Tensor
    came: Tensor


# What a planner could go by. The sums of rewards and the value of the end, either of them dreamt or real.
SCORES: dict[str, Callable[[Scores], Tensor]] = {
    "dreamt rewards, dreamt value": lambda x: x.dreamt_rewards + x.dreamt_value,
    "real rewards, dreamt value": lambda x: x.real_rewards + x.dreamt_value,
    "dreamt rewards, real value": lambda x: x.dreamt_rewards + x.real_value,
    "real rewards, real value": lambda x: x.real_rewards + x.real_value,
    "dreamt rewards": lambda x: x.dreamt_rewards,
    "real rewards": lambda x: x.real_rewards,
    "what came": lambda x: x.came,
}


class Simulator:
    """The task of a run without its time limit: it goes on from any state of its episode."""

    def __init__(self, agent: Agent) -> None:
        task, options = agent.config.task, agent.config.env.options()
        if base_task(task) not in SUITE_TASKS:
            raise ValueError(f"logdir: got a run of {task!r}, expected one of a task of the DeepMind Control suite")
        if agent.config.world_model.vector_dim is not None:
            raise ValueError("logdir: got a run with vectors beside its frames, expected frames alone")
        unlimited = {**(options.pop("kwargs") or {}), "time_limit": 1e9}  # seconds
        env = make_env(task, kwargs=unlimited, **options)
        assert isinstance(env, DMCPixels)
        self.env = env

    def state(self) -> NDArray[np.float64]:
        """Return the physics as it is now."""
        physics = self.env.physics
        state = np.empty(mujoco.mj_stateSize(physics.model.ptr, ALL))
        mujoco.mj_getState(physics.model.ptr, physics.data.ptr, state, ALL)
        return state

    def restore(self, state: NDArray[np.float64]) -> None:
        """Go back to a state of this episode."""
        physics = self.env.physics
        mujoco.mj_setState(physics.model.ptr, physics.data.ptr, state, ALL)
        physics.forward()

    def step_each(
        self, states: Sequence[NDArray[np.float64]], actions: Tensor
    ) -> tuple[list[NDArray[np.float64]], Tensor, Tensor]:
        """Act by actions [K, A] in K states -> the next states, rewards [K] and frames [K, 3, 64, 64]."""
        after, rewards, images = [], [], []
        for state, action in zip(states, actions.cpu().numpy(), strict=True):
            self.restore(state)
            image, reward, *_ = self.env.step(action)
            after.append(self.state())
            rewards.append(float(reward))
            images.append(image.copy())
        return after, torch.tensor(rewards), to_frames(torch.from_numpy(np.stack(images)))


class Judge:
    """Dreams and plays candidates from points of an agent's episodes."""

    def __init__(self, agent: Agent, given: argparse.Namespace) -> None:
        self.agent, self.simulator, self.given = agent, Simulator(agent), given
        self.gamma = agent.config.behavior.gamma
        self.generator = torch.Generator(agent.device).manual_seed(given.seed)

    def points(self) -> Iterator[Point]:
        """Play episodes by the policy's mode and stop at points all along them."""
        episodes = -(-self.given.points // PER_EPISODE)
        for episode in range(episodes):
            count = min(PER_EPISODE, self.given.points - episode * PER_EPISODE)
            stops = np.linspace(CONTEXT, self.given.length - 1, count).round().astype(int).tolist()
            image, _ = self.simulator.env.reset(seed=self.given.seed + episode)
            memory, first = self.agent.initial_state(1), torch.tensor([True])
            for step in range(self.given.length):
                frames = to_frames(torch.from_numpy(image.copy())[None])
                belief, memory = self._observe(memory, frames, first)
                if step in stops:
                    here = self.simulator.state()
                    yield Point(here, belief, memory)
                    self.simulator.restore(here)
                action = self.agent.choose(belief, "deterministic")
                memory, first = self.agent.model.remember(memory, belief, action), torch.tensor([False])
                image, *_ = self.simulator.env.step(action[0].cpu().numpy())

    def score(self, point: Point) -> Scores:
        """Judge the candidates of a point in the dream and in reality."""
        count, horizon = self.given.candidates, self.given.horizon
        starts = point.belief.map(lambda x: x.expand(count, *x.shape[1:]))
        actions, dream = self._dream(starts)
        rewards = self.agent.model.reward_head.predict(dream.features)[:, 1:]
        memory = Memory(*(_repeat(part, count) for part in point.memory))
        real_rewards, belief, memory, states = self._play([point.simulator] * count, starts, memory, actions)
        real_value = self._value(belief.features)
        followed, belief, *_ = self._play(states, belief, memory, None)
        end = self.gamma**self.given.follow * self._value(belief.features)
        discount = self.gamma**horizon
        return Scores(
            dreamt_rewards=self._discounted(rewards),
            dreamt_value=discount * self._value(dream.features[:, -1]),
            real_rewards=self._discounted(real_rewards),
            real_value=discount * real_value,
            came=self._discounted(real_rewards) + discount * (self._discounted(followed) + end),
        )

    def _dream(self, starts: State) -> tuple[Tensor, State]:
        """Dream the candidates [K, H, A], all under the same components and latents: the actor's, then spread ones."""
        count, horizon, kind = len(starts.latent), self.given.horizon, self.agent.actor_critic.actor.kind
        noise = self.agent.model.draw_noise((horizon, 1), self.generator)
        own = count // 2
        drawn = kind.draw_noise((horizon, count, self.agent.action_dim), starts.latent, self.generator)
        drawn[:, 0] = 0.0
        following = iter(drawn)

        def act(dreamed: State) -> Tensor:
            policy, now = self.agent.actor_critic.actor(dreamed.features), next(following)
            spread = (policy.mode[:1] + self.given.spread * now[own:]).clamp(-1, 1)
            return torch.cat([policy.sample(noise=now)[1][:own], spread])

        dream, actions = self.agent.model.imagine(starts, act, horizon, noise=repeat_noise(noise, count))
        return actions, dream

    def _play(
        self, states: Sequence[NDArray[np.float64]], belief: State, memory: Memory, actions: Tensor | None
    ) -> tuple[Tensor, State, Memory, list[NDArray[np.float64]]]:
        """Act by given actions [K, H, A], or by the policy -> rewards [K, H], beliefs, memory, states."""
        steps = self.given.follow if actions is None else actions.shape[1]
        rewards, going = [], torch.zeros(len(belief.latent), dtype=torch.bool)
        now = list(states)
        for step in range(steps):
            action = self.agent.choose(belief, "deterministic") if actions is None else actions[:, step]
            memory = self.agent.model.remember(memory, belief, action)
            now, reward, frames = self.simulator.step_each(now, action)
            belief, memory = self._observe(memory, frames, going)
            rewards.append(reward)
        return torch.stack(rewards, 1), belief, memory, now

    def _observe(self, memory: Memory, frames: Tensor, first: Tensor) -> tuple[State, Memory]:
        return self.agent.model.observe_step(memory, frames, first, self.generator, sample=False)

    def _value(self, features: Tensor) -> Tensor:
        return least_value(self.agent.actor_critic, features)

    def _discounted(self, rewards: Tensor) -> Tensor:
        return rewards @ self.gamma ** torch.arange(rewards.shape[1])


def _repeat(part: Any, count: int) -> Any:
    """Return a part of one environment's memory, tensors [1, ...] or tuples of them, for `count` candidates."""
    if isinstance(part, Tensor):
        return part.expand(count, *part.shape[1:])
    if part is None:
        return None
    made = (_repeat(x, count) for x in part)
    return type(part)(*made) if hasattr(part, "_fields") else tuple(made)


def rank_correlation(some: Tensor, others: Tensor) -> float:
    """Return Spearman's rank correlation of two sets of numbers [K]; 0 where one of them is constant."""
    if some.min() == some.max() or others.min() == others.max():
        return 0.0
    return float(spearmanr(some, others).statistic)


def compare(points: Sequence[Scores]) -> list[dict[str, Any]]:
    """What every score finds, over all points: rows of a table, for all candidates and for the actor's alone."""
    rows = []
    for family, share in FAMILIES.items():
        for name, score in SCORES.items():
            gains, ranks = [], []
            for point in points:
                count = round(share * len(point.came))
                liked, came = score(point)[:count], point.came[:count]
                gains.append(float(came[liked.argmax()] - came[0]))
                ranks.append(rank_correlation(liked, came))
            low, high = bootstrap_interval(np.array(gains), np.mean)
            interval = f"[{low:.2f}, {high:.2f}]"
            rows.append(
                {"candidates": family, "score": name, "gain": float(np.mean(gains)), "95 %": interval}
                | {"rank correlation": float(np.mean(ranks))}
            )
    return rows


def foretold(points: Sequence[Scores]) -> list[dict[str, Any]]:
    """How far the dream tells the candidates apart, where the simulator does: rows of a second table."""
    rows = []
    for family, share in FAMILIES.items():
        for name in ("rewards", "value"):
            ranks, spreads = [], []
            for point in points:
                count = round(share * len(point.came))
                both = [getattr(point, f"{kind}_{name}")[:count] for kind in ("dreamt", "real")]
                ranks.append(rank_correlation(*both))
                spreads.append([float(x.std()) for x in both])
            dreamt, real = np.mean(spreads, 0)
            row = {"candidates": family, "of": name, "rank correlation": float(np.mean(ranks))}
            rows.append({**row, "spread in the dream": float(dreamt), "in reality": float(real)})
    return rows


def measure(given: argparse.Namespace) -> Report:
    """Play, dream, compare -> {"run", "results", "foretold"}."""
    agent = load(given.logdir, device="cpu")
    agent.plan_with("none")  # a run that plans has a policy, too
    judge = Judge(agent, given)
    with torch.no_grad(), seeded(agent, given.seed):
        agent.model.eval()
        points = [judge.score(point) for point in judge.points()]
    came = torch.stack([point.came for point in points])
    run = {"task": agent.config.task, "updates": agent.updates, "gamma": judge.gamma}
    run |= {"came of the mode": float(came[:, 0].mean()), "spread of what came": float(came.std(1).mean())}
    return {"run": run, "results": compare(points), "foretold": foretold(points)}


def show(console: Console, report: Report) -> None:
    """Print both tables."""
    console.print(rows_table(report["results"]))
    console.print(rows_table(report["foretold"]))
    for name, value in report["run"].items():
        console.print(f"{name}: {value}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, dream, compare, print, write."""
    command = Command("learning.planning", __doc__)
    command.add_argument("logdir", type=Path)
    command.add_number("points", 40, "moments at which the candidates are compared", least=2)
    command.add_number("candidates", 32, "sequences of actions at every point", least=4)
    command.add_number("horizon", 5, "steps of a sequence")
    command.add_number("spread", 0.5, "standard deviation of the candidates that are not the actor's", least=0)
    command.add_number("follow", 60, "steps by the policy that show what a sequence led to")
    command.add_number("length", 400, "steps of an episode in which the points lie", least=CONTEXT + 1)
    command.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the first held-out episode")
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
