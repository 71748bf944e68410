"""What a run's world model is worth to a policy: an actor-critic trained in its dreams alone, played for real.

    python -m benchmarks.learning.behavior_alone runs/demo [--arms new kept ...] [--set behavior.gamma=0.99 ...]
        [--updates 1000] [--episodes 8] [--seeds 0 1] [--threads 1] [--json out.json]

The model stays as it is; dreams start at the frames of the run's episodes. Arms: `new` trains a new actor and a new
critic, `kept` goes on with the run's own, `new_actor` and `new_critic` replace one of them. Where `new` soon plays
better than the run does, the model is not what holds the run back. "value" is the critic's mean over the frames of
the run's newest episodes, in the first halves of these, "return" the discounted rewards that came after them.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Generator, Tensor

from agent import load
from agent.config.settings import Config
from agent.evaluation import evaluate
from agent.learning.actor_critic import ActorCritic
from agent.learning.agent import Agent
from agent.learning.behavior_learner import BehaviorLearner, ReplayTargets
from agent.learning.frames import to_frames
from agent.report.dreams import values_and_returns
from benchmarks.harness.command import Command, Report
from benchmarks.learning.changes import parse_changes, with_changes
from replay import EpisodeStore
from replay.rows import Episode
from world_model.state import State, join

ARMS = {"new": ("actor", "critic"), "kept": (), "new_actor": ("actor",), "new_critic": ("critic",)}
OF_THE_BEHAVIOR = ("behavior.", "optimizer.actor_lr", "optimizer.critic_lr")  # settings that may be changed
JUDGED = 12  # newest episodes on which values are compared with returns


@dataclass
class Experience:
    """The rows of a run's episodes, one after the other: beliefs [R, ...], reward, is_first and is_terminal [R]."""

    states: State
    reward: Tensor
    is_first: Tensor
    is_terminal: Tensor

    def windows(self, batch: int, length: int, generator: Generator) -> tuple[State, ReplayTargets]:
        """Draw `batch` windows of `length` rows, as replay does: states [B, T, ...] and targets [B, T]."""
        begins = torch.randint(len(self.reward) - length + 1, (batch, 1), generator=generator)
        rows = (begins + torch.arange(length)).to(self.reward.device)
        states = self.states.map(lambda x: x[rows])
        return states, ReplayTargets(states.features, self.reward[rows], self.is_first[rows], self.is_terminal[rows])


def load_episodes(logdir: Path, length: int) -> list[Episode]:
    """A run's episodes, oldest first. ValueError if they do not have `length` rows together."""
    store = EpisodeStore(logdir / "episodes")
    episodes = list(store.load_all())
    rows = sum(len(episode.reward) for episode in episodes)
    if rows < length:
        raise ValueError(
            f"logdir: got episodes of {rows} rows together in '{store.folder}', expected at least {length}"
        )
    return episodes


@torch.no_grad()
def infer(agent: Agent, episode: Episode, generator: Generator) -> Experience:
    """The agent's beliefs all along an episode."""
    fields = (episode.image, episode.action, episode.reward, episode.is_first, episode.is_terminal)
    image, action, reward, is_first, is_terminal = (torch.from_numpy(x).to(agent.device) for x in fields)
    observed = agent.model.eval().observe(to_frames(image[None]), action[None], is_first[None], generator)
    return Experience(observed.states.map(lambda x: x[0]), reward, is_first, is_terminal)


def joined(parts: Sequence[Experience]) -> Experience:
    """The rows of all parts, in their order."""
    reward, is_first, is_terminal = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("reward", "is_first", "is_terminal")
    )
    states = join([part.states for part in parts], torch.cat)
    return Experience(states, reward, is_first, is_terminal)


def equip(agent: Agent, config: Config, arm: str) -> None:
    """Give the agent other settings of its behaviour, new networks where the arm says so, and new optimizers."""
    agent.config = config
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)
        features = agent.model.config.feature_dim
        new = ActorCritic(features, agent.action_dim, config.behavior, agent.is_discrete).to(agent.device)
    kept = {"actor": ("actor", "entropy_bonus"), "critic": ("critic", "slow_critic", "return_scale")}
    for network, names in kept.items():
        for name in names if network not in ARMS[arm] else ():
            own = agent.actor_critic.get_submodule(name).state_dict()
            new.get_submodule(name).load_state_dict(own, strict=name != "entropy_bonus")  # --set may give it a target
    agent.actor_critic = new
    agent.behavior_learner = BehaviorLearner(
        agent.model, new, config.behavior, config.optimizer, agent.autocast, agent.exploration
    )


def train(agent: Agent, experience: Experience, updates: int) -> dict[str, float]:
    """Make `updates` of actor and critic in dreams from the experience -> the last one's metrics."""
    replay, seed = agent.config.replay, agent.config.seed
    generator, noise = Generator().manual_seed(seed), Generator(agent.device).manual_seed(seed)
    metrics: dict[str, Tensor] = {}
    for update in range(updates):
        states, played = experience.windows(replay.batch_size, replay.batch_length, generator)
        start, root_continue = agent.dream_starts(states, played.is_terminal)
        metrics = agent.behavior_learner.update(start, root_continue, noise, played, update)
    return {name: float(value) for name, value in metrics.items()}


def value_figures(agent: Agent, parts: Sequence[Experience]) -> dict[str, float]:
    """The critic's mean value in the first halves of episodes, and that of the returns that came."""
    pairs = [
        values_and_returns(agent, part.states.features[None], part.reward[None], part.is_terminal[None])
        for part in parts
    ]
    value, came = (torch.cat([x.flatten() for x in side]) for side in zip(*pairs, strict=True))
    return {"value": float(value.mean()), "return": float(came.mean())}


def measure(given: argparse.Namespace) -> Report:
    """Train and play every arm with every seed -> {"run", "results"}."""
    agent = load(given.logdir)
    if not isinstance(agent, Agent):
        raise ValueError(f"logdir: got '{given.logdir}', a baseline's run, expected one of our agent")
    config = with_changes(agent.config, parse_changes(given.set, OF_THE_BEHAVIOR))
    own, updates = agent.actor_critic, agent.updates
    noise = Generator(agent.device).manual_seed(0)
    parts = [infer(agent, x, noise) for x in load_episodes(given.logdir, config.replay.batch_length)]
    experience, rows = joined(parts), []
    for arm in given.arms:
        for seed in given.seeds:
            begun = time.monotonic()
            agent.actor_critic = own
            equip(agent, replace(config, seed=seed), arm)
            figures = train(agent, experience, given.updates) | value_figures(agent, parts[-JUDGED:])
            played = {mode: evaluate(agent, given.episodes, mode=mode).returns for mode in ("deterministic", "sample")}
            seconds = round(time.monotonic() - begun, 1)
            rows.append({"arm": arm, "seed": seed, "seconds": seconds, "returns": played, "figures": figures})
            print(f"{arm} {seed}: {seconds} s", flush=True)
    run = {"task": config.task, "preset": config.preset, "updates": updates, "episodes": len(parts)}
    return {"run": run, "results": rows}


def show(console: Console, report: Report) -> None:
    """Print a row for each arm and seed."""
    title = f"{report['run']['task']}, {report['settings']['updates']:,} updates in dreams"
    dreamt = ("dream_return", "dream_reward", "value", "return")
    table = Table("arm", "seed", "played", "sampled", *dreamt, title=title)
    for row in report["results"]:
        means = (sum(returns) / len(returns) for returns in row["returns"].values())
        figures = (f"{x:.3g}" for x in (*means, *(row["figures"][name] for name in dreamt)))
        table.add_row(row["arm"], str(row["seed"]), *figures)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, play, print, write."""
    command = Command("learning.behavior_alone", __doc__)
    command.add_argument("logdir", type=Path)
    command.add_argument("--arms", nargs="+", choices=ARMS, default=["new", "kept"])
    command.add_argument("--set", nargs="+", default=[], metavar="key=value", help="of every arm")
    command.add_argument("--seeds", type=int, nargs="+", default=[0])
    command.add_number("updates", 1000)
    command.add_number("episodes", 8)
    command.add_number("threads", 1)
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
