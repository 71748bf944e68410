"""What a setting is worth to the world model alone: trained on a run's episodes, judged on its dreams of others.

    python -m benchmarks.learning.model_alone runs/demo [--arms aime perceiver] [--set key=value ...] [--seeds 0 1]
        [--updates 500] [--held_out 12] [--threads 1] [--json out.json]

Minutes where a run takes an hour, and every arm has the same data. The run's newest --held_out episodes are not trained
on; figures are the losses and health monitors (docs/monitors.md) of them, with the average of the weights.
imag_gap_reward/k is the mean absolute error of the reward k steps into dreams under the actions that were taken.
A model that is better here need not be the better agent: docs/learning.md has a case.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agent.config.files import load_config
from agent.config.settings import Config
from agent.learning.agent import Agent
from agent.learning.frames import to_frames
from benchmarks.harness.command import Command, Report
from benchmarks.learning.changes import parse_changes, with_changes
from benchmarks.learning.results import ARMS
from replay import EpisodeStore, ReplayBuffer
from replay.rows import Episode
from world_model import monitors

LOSSES = ("recon_loss", "kl_bound", "reward_nll")
SHOWN = (*LOSSES, "imag_gap_reward/1", "imag_gap_reward/5", "imag_gap_reward/15", "imag_gap_carry/5", "imag_gap_kl/5")
# settings that its learning depends on
OF_THE_MODEL = ("world_model.", "losses.", "optimizer.", "replay.batch_", "replay.burn_in", "replay.shift")
MODEL_ARMS = [name for name, changes in ARMS.items() if all(key.startswith(OF_THE_MODEL) for key in changes)]


def arm_config(base: Config, arm: str, settings: Sequence[str], seed: int) -> Config:
    """The run's config with --set ("key=value"), an arm's settings, which win, and a seed. ValueError in one line."""
    return with_changes(base, parse_changes(settings, OF_THE_MODEL) | ARMS[arm] | {"seed": str(seed)})


def load_episodes(logdir: Path, held_out: int, length: int) -> tuple[list[Episode], list[Episode]]:
    """A run's episodes, oldest first, without and with its newest `held_out`. ValueError where they are too few."""
    store = EpisodeStore(logdir / "episodes")
    episodes = [episode for episode in store.load_all() if len(episode.reward) >= length]
    if not 0 < held_out < len(episodes):
        have = f"{len(episodes)} episodes of {length} rows or more in '{store.folder}'"
        raise ValueError(f"held_out: got {held_out}, expected at least 1 and fewer than the {have}")
    return episodes[:-held_out], episodes[-held_out:]


def train(config: Config, episodes: Sequence[Episode], updates: int) -> Agent:
    """An agent whose world model alone has made `updates` on chunks of the episodes."""
    action_dim = episodes[0].action.shape[-1]
    agent, rows = Agent(config, action_dim), sum(len(episode.reward) for episode in episodes)
    buffer = ReplayBuffer(rows, action_dim=action_dim, seed=config.seed, recency=config.replay.recency)
    for episode in episodes:
        buffer.add_episode(episode)
    for _ in range(updates):
        agent.update(buffer.sample(config.replay.batch_size, config.replay.sample_length), behavior=False)
    return agent


@torch.no_grad()
def judge(agent: Agent, episodes: Sequence[Episode]) -> dict[str, float]:
    """Mean losses and monitors of episodes, all cut to the length of the shortest."""
    length = min(len(episode.reward) for episode in episodes)

    def field(name: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([getattr(x, name)[:length] for x in episodes])).to(agent.device)

    model, action, reward = agent.model.eval(), field("action"), field("reward")
    generator = torch.Generator(agent.device).manual_seed(0)
    with agent.average.swapped():
        frames = to_frames(field("image"))
        output = model(frames, action, None, reward, field("is_terminal"), generator)
        measured = monitors.measure(model, output, generator)
    outputs = output.as_dict()
    return {name: float(outputs[name].mean()) for name in LOSSES} | {n: float(x) for n, x in measured.items()}


def measure(given: argparse.Namespace) -> Report:
    """Train and judge every arm with every seed -> {"run", "results"}."""
    base = load_config(given.logdir / "config.yaml")
    runs = [(arm, seed, arm_config(base, arm, given.set, seed)) for arm in given.arms for seed in given.seeds]
    length = max(config.replay.sample_length for *_, config in runs)
    training, held_out = load_episodes(given.logdir, given.held_out, length)
    rows = []
    for arm, seed, config in runs:
        begun = time.monotonic()
        figures = judge(train(config, training, given.updates), held_out)
        rows.append({"arm": arm, "seed": seed, "seconds": round(time.monotonic() - begun, 1), "figures": figures})
        print(f"{arm} {seed}: {rows[-1]['seconds']} s", flush=True)
    return {"run": {"task": base.task, "preset": base.preset, "episodes": len(training)}, "results": rows}


def show(console: Console, report: Report) -> None:
    """Print the figures as a table with a column for each arm and seed."""
    rows = report["results"]
    columns = (f"{row['arm']}, seed {row['seed']}" for row in rows)
    title = f"{report['run']['task']} after {report['settings']['updates']:,} updates"
    table = Table("figure", *columns, title=title)
    for name in SHOWN:
        if name in rows[0]["figures"]:  # short episodes have no long dreams
            table.add_row(name, *(f"{row['figures'][name]:.3g}" for row in rows))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, judge, print, write."""
    command = Command("learning.model_alone", __doc__)
    command.add_argument("logdir", type=Path)
    command.add_argument("--arms", nargs="+", choices=MODEL_ARMS, default=["aime"])
    command.add_argument("--set", nargs="+", default=[], metavar="key=value", help="of every arm; the arm's own win")
    command.add_argument("--seeds", type=int, nargs="+", default=[0])
    command.add_number("updates", 500)
    command.add_number("held_out", 12)
    command.add_number("threads", 1)
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
