"""What learning from recorded episodes alone is worth: our agent beside behaviour cloning from the same frames.

    python -m benchmarks.learning.offline DATA --logdir runs/offline [--preset cpu] [--pick 50] [--updates 4000]
        [--copies 3000] [--seeds 0 1] [--episodes 10] [--threads 1] [--json out.json]

DATA is what `train --offline` takes. `pick` of its episodes, spread evenly from the first to the last, are written to
LOGDIR/data: of a run's folder, episodes of every quality between its first and its last ones. From those learn

    aime         our agent by `run_agent.py train --offline`, in `updates` updates
    copy         behaviour cloning: the CnnPolicy of Stable-Baselines3 by the likelihood of the actions
    copy_best    the same from the best quarter of the episodes ("25 % BC")

Cloning takes `copies` batches of 128 stacks of 3 frames; every tenth episode is held out, and the weights with the best
likelihood on those play. All play the same `episodes` held-out seeds deterministically. The same command again goes on
with our agent's runs, which stay in LOGDIR, and clones anew.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agent import load, make_config
from agent.config.settings import Config
from agent.evaluation import evaluate
from agent.evaluation.episodes import TrainedPlayer
from agent.evaluation.statistics import bootstrap_interval
from agent.learning.agent import choose_device
from agent.run_folder.datasets import DESCRIPTION, Dataset, FolderWriter, open_dataset
from agent.stable_baselines.baselines import STACK, Baseline, make_model, stacked_envs
from agent.sweep.child import PROGRAM
from benchmarks.harness.command import Command, Failed, Report, rows_table
from benchmarks.learning.results import HELD_OUT_SEED
from benchmarks.learning.runs import call
from replay.rows import Episode

BATCH, RATE, EVERY = 128, 3e-4, 100  # of cloning: stacks of a batch, Adam's rate, batches between two looks
HELD_OUT, BEST = 10, 4  # every tenth episode; the best quarter


def pick(data: Dataset, count: int, folder: Path) -> Dataset:
    """Write `count` episodes, spread evenly over the data, to a new folder; one that is there already is read."""
    if not (folder / DESCRIPTION).is_file():
        if not 2 <= count <= len(data.lengths):
            raise ValueError(f"pick: got {count}, expected from 2 to the {len(data.lengths)} episodes of {data.name}")
        chosen = set(np.linspace(0, len(data.lengths) - 1, count).round().astype(int).tolist())
        writer = FolderWriter(folder, data.about)
        for index, episode in enumerate(data.read()):
            if index in chosen:
                writer.add(episode)
    picked = open_dataset(str(folder))
    if len(picked.lengths) != count:
        raise ValueError(f"pick: got {count}, expected {len(picked.lengths)} as in '{folder}'")
    return picked


class Stacks:
    """The stacks of STACK frames that a baseline sees at every decision of some episodes, and the actions chosen."""

    def __init__(self, episodes: Sequence[Episode], is_discrete: bool) -> None:
        height, width, channels = episodes[0].image.shape[1:]
        before = np.zeros((STACK - 1, height, width, channels), np.uint8)  # black, as before a baseline's episode
        self.frames = torch.from_numpy(np.concatenate([x for e in episodes for x in (before, e.image)]))
        begins = np.cumsum([0, *(len(e.image) + STACK - 1 for e in episodes[:-1])])
        decisions = [begin + np.arange(len(e.action) - 1) for begin, e in zip(begins, episodes, strict=True)]
        self.first = torch.from_numpy(np.concatenate(decisions))  # row of a stack's oldest frame
        actions = torch.from_numpy(np.concatenate([e.action[:-1] for e in episodes]))  # the last row has none
        self.actions = actions.argmax(-1) if is_discrete else actions

    def __len__(self) -> int:
        return len(self.first)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return stacks uint8 [B, 3 STACK, H, W] and actions [B, A], or [B] of discrete ones."""
        rows = self.first[indices][:, None] + torch.arange(STACK)
        stacks = self.frames[rows].permute(0, 1, 4, 2, 3).flatten(1, 2)
        return stacks, self.actions[indices]


def likelihood(policy: ActorCriticPolicy, stacks: Tensor, actions: Tensor) -> Tensor:
    """Return the mean ln p of actions [B, A] or [B] at stacks [B, 3 STACK, H, W]."""
    _, log_prob, _ = policy.evaluate_actions(stacks.to(policy.device), actions.to(policy.device))
    return log_prob.mean()


class Copied(NamedTuple):
    """A cloned policy: its player, the batches after which it was best, and its ln p an action on held-out episodes."""

    player: Baseline
    batches: int
    log_likelihood: float


def copy(config: Config, episodes: Sequence[Episode], is_discrete: bool, batches: int) -> Copied:
    """Clone the behaviour of episodes: the weights of the best likelihood on every HELD_OUT-th of them."""
    config = replace(config, algo="ppo", env=replace(config.env, vector=False))
    env = stacked_envs(config)
    try:
        model = make_model(config, env, choose_device(config.device), buffer_rows=1)
    finally:
        env.close()
    policy = model.policy
    assert isinstance(policy, ActorCriticPolicy)
    test = Stacks([e for i, e in enumerate(episodes) if i % HELD_OUT == 0], is_discrete)
    train = Stacks([e for i, e in enumerate(episodes) if i % HELD_OUT], is_discrete)
    generator = torch.Generator().manual_seed(config.seed)
    judged = torch.randperm(len(test), generator=generator)[: 4 * BATCH].split(BATCH)
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)
    found, weights = (-np.inf, 0), {}
    for made in range(batches + 1):
        if made % EVERY == 0 or made == batches:
            with torch.no_grad():
                now = float(torch.stack([likelihood(policy, *test.batch(part)) for part in judged]).mean())
            if now > found[0]:
                found, weights = (now, made), {k: v.clone() for k, v in policy.state_dict().items()}
        if made == batches:
            break
        drawn = torch.randint(len(train), (BATCH,), generator=generator)
        optimizer.zero_grad()
        (-likelihood(policy, *train.batch(drawn))).backward()
        optimizer.step()
    policy.load_state_dict(weights)
    return Copied(Baseline(model, config), found[1], found[0])


def learn(given: argparse.Namespace, data: Path, seed: int) -> Path:
    """Train our agent on the folder `data` through the command line, or go on with it -> its run's folder."""
    logdir = given.logdir / f"aime-s{seed}"
    options = {"offline": data, "preset": given.preset, "logdir": logdir, "seed": seed, "threads": given.threads}
    options |= {"train.offline_updates": given.updates, "train.eval_every": 10**9}
    try:
        call([str(PROGRAM), "train", *(f"--{key}={value}" for key, value in options.items())], given.threads)
    except RuntimeError as error:
        raise Failed(str(error)) from None
    return logdir


def measure(given: argparse.Namespace) -> Report:
    """Let all learn from the same episodes and play -> {"run", "results"}."""
    everything = open_dataset(given.data)
    if everything.about.task is None:
        raise ValueError(f"data: got {given.data!r}, which names no task, expected a run or what `collect` writes")
    data = pick(everything, given.pick, given.logdir / "data")
    episodes = list(data.read())
    best = np.argsort(data.returns)[-max(2, len(episodes) // BEST) :]
    shared = {name: value for name, value in data.settings().items() if name != "task"}
    rows = [{"learned": "the data", "seed": "", **_figures(np.array(data.returns)), "seconds": 0.0}]
    for seed in given.seeds:
        config = make_config(given.preset, data.about.task, shared | {"seed": seed, "threads": given.threads})
        for name, of in (("copy", range(len(episodes))), ("copy_best", sorted(best))):
            begun = time.monotonic()
            copied = copy(config, [episodes[i] for i in of], data.is_discrete, given.copies)
            rows.append(_row(name, seed, copied.player, given.episodes, begun))
            print(f"{name} {seed}: {copied.log_likelihood:.2f} nats after {copied.batches} batches", flush=True)
        begun = time.monotonic()
        agent = load(learn(given, given.logdir / "data", seed))
        rows.append(_row("aime", seed, agent, given.episodes, begun))
    run = {"task": data.about.task, "data": data.name, "episodes": len(episodes), "rows": data.num_rows}
    return {"run": run, "results": rows}


def _row(name: str, seed: int, player: TrainedPlayer, episodes: int, begun: float) -> dict[str, Any]:
    returns = np.array(evaluate(player, episodes, seed=HELD_OUT_SEED).returns)
    return {"learned": name, "seed": seed, **_figures(returns), "seconds": round(time.monotonic() - begun, 1)}


def _figures(returns: NDArray[np.float64]) -> dict[str, float]:
    """The mean of returns with its bootstrap interval of 95 %, and the largest of them."""
    low, high = bootstrap_interval(returns, np.mean)
    return {"mean": float(returns.mean()), "from": low, "to": high, "best": float(returns.max())}


def show(console: Console, report: Report) -> None:
    """Print a row for each learner and seed."""
    run = report["run"]
    console.print(f"{run['task']}: {run['episodes']} episodes, {run['rows']:,} rows")
    console.print(rows_table(report["results"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Learn, play, print, write."""
    command = Command("learning.offline", __doc__)
    command.add_argument("data")
    command.add_argument("--logdir", type=Path, required=True)
    command.add_argument("--preset", default="cpu")
    command.add_argument("--seeds", type=int, nargs="+", default=[0])
    command.add_number("pick", 50)
    command.add_number("updates", 4000)
    command.add_number("copies", 3000)
    command.add_number("episodes", 10)
    command.add_number("threads", 1)
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
