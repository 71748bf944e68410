"""Take the world model of a trained run apart: what each pillar does on episodes that it has never seen.

    python -m benchmarks.learning.examine runs/walker_walk [--episodes 8] [--seed 500000] [--mode sample|deterministic]
        [--dream_noise 1.0] [--json out.json] [--pictures folder]

The agent plays held-out episodes; every figure is of them, none of training data. "policy" figures: the mean reward k
steps after a frame, as it came and as dreams under the same policy have it, and the critic's mean value beside the
discounted return that came. Pictures: open_loop.jpg, dream.jpg (50 steps under the policy from 32 starts, every
tenth), attention.jpg (where attention is on), components.jpg (of a mixture).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agent import load
from agent.learning.agent import Agent, Mode
from agent.report.dreams import dream_errors, values_and_returns
from agent.report.held_out import HeldOut, play
from agent.report.pictures import attention_picture
from agent.video.dreams import inferred, open_loop, psnr
from agent.video.picture import palette
from benchmarks.harness.command import Command, Report
from benchmarks.learning.results import HELD_OUT_SEED
from world_model import monitors
from world_model.losses import squared_error
from world_model.state import State

AHEAD = (1, 5, 15, 30, 50)  # steps of an open loop that are judged
STARTS, DREAM_STEPS, CONTEXT = 32, 50, 5
SHOWN = ("kl_bound", "vq_perplexity", "attention_kl", "reward_nll")  # outputs whose means are figures

Picture = NDArray[np.uint8]


def reconstruction_figures(agent: Agent, outputs: dict[str, Any], frames: Tensor) -> dict[str, float]:
    """Squared error of a frame (sum over pixels) under each kind of map, with another sequence's z, and of controls."""
    model, states = agent.model, outputs["states"]

    def error(state: State, maps: Tensor | None) -> float:
        return float(squared_error(frames, model.decode(state, maps)).mean())

    swapped = states._replace(latent=states.latent.roll(1, 0))
    best_frame = frames.mean((0, 1), keepdim=True).expand_as(frames)
    found = {
        "recon/prior maps": error(states, None),
        "recon/another sequence's z": error(swapped, None),
        "recon/mean frame": float(squared_error(frames, best_frame).mean()),
    }
    if model.attention is not None:
        found |= {
            "recon/posterior maps": error(states, outputs["attention_maps"]),
            "recon/uniform maps": error(states, torch.full_like(outputs["attention_maps"], 1 / 64)),
        }
    return found


def open_loop_figures(
    agent: Agent, outputs: dict[str, Any], data: HeldOut, generator: torch.Generator
) -> dict[str, float]:
    """PSNR in dB k steps after the last frame seen, over starts all along every episode, under the logged actions.

    Beside it the mean absolute error of the dreamt rewards, over that of the mean reward; absent if rewards never vary.
    """
    length = data.frames.shape[1]
    steps = [k for k in AHEAD if k < length - CONTEXT]
    starts = [int(s) for s in np.linspace(CONTEXT - 1, length - 1 - steps[-1], 16)]
    errors = dream_errors(agent, outputs["states"], data, starts, steps[-1], generator)
    best_frame = data.frames.mean((0, 1), keepdim=True).expand_as(data.frames)
    missed, spread = np.abs(errors.predicted - errors.came), np.abs(errors.came - float(data.rewards.mean()))
    return {
        "open loop/reconstruction": psnr(outputs["reconstructions"], data.frames),
        **{f"open loop/+{k}": float(-10 * np.log10(errors.frame[:, :, k - 1].mean())) for k in steps},
        "open loop/mean frame": psnr(best_frame, data.frames),
        **{
            f"open loop reward/+{k}": float(missed[:, :, k - 1].mean() / spread[:, :, k - 1].mean())
            for k in steps
            if spread[:, :, k - 1].any()
        },
    }


def policy_figures(
    agent: Agent, outputs: dict[str, Any], data: HeldOut, mode: Mode, generator: torch.Generator
) -> dict[str, float]:
    """Mean reward k steps ahead: as it came, as dreamt under the policy, and as dreamt under the actions that came."""
    steps, stride = min(15, data.frames.shape[1] - CONTEXT - 1), 4
    starts = torch.arange(CONTEXT - 1, data.frames.shape[1] - steps, stride, device=agent.device)
    start: State = outputs["states"].map(lambda x: x[:, starts].flatten(0, 1))
    logged = iter(torch.stack([data.actions[:, starts + k].flatten(0, 1) for k in range(steps)]))
    choose = partial(agent.choose, mode=mode, generator=generator)
    found = {}
    for name, policy in (("policy/dream", choose), ("policy/dream, actions that came", lambda _: next(logged))):
        dream, _ = agent.model.imagine(start, policy, steps, generator)
        rewards = agent.model.reward_head.predict(dream.features).mean(0)
        found |= {f"{name}/+{k}": float(rewards[k]) for k in AHEAD if k <= steps}
    came = {f"policy/reality/+{k}": float(data.rewards[:, starts + k].mean()) for k in AHEAD if k <= steps}
    return came | found


def dream_picture(agent: Agent, outputs: dict[str, Any], mode: Mode, generator: torch.Generator) -> Picture:
    """Starts in rows of four; of each every tenth step of a dream under the policy, the first of which was seen."""
    states: State = outputs["states"].map(lambda x: x[:, CONTEXT:].flatten(0, 1))
    rows = torch.linspace(0, len(states.latent) - 1, STARTS).long()
    choose = partial(agent.choose, mode=mode, generator=generator)
    dream, _ = agent.model.imagine(states.map(lambda x: x[rows]), choose, DREAM_STEPS, generator)
    drawn = agent.model.decode(dream.map(lambda x: x[:, ::10]))
    blocks = [grid([[to_picture(x) for x in row] for row in part]) for part in drawn.chunk(4)]
    return grid([blocks], gap=8)


def open_loop_picture(agent: Agent, outputs: dict[str, Any], data: HeldOut, generator: torch.Generator) -> Picture:
    """For four episodes: the real frames over those dreamt after CONTEXT of them, in the columns 1, 2, 3, 5, ... 50."""
    length = data.frames.shape[1]
    columns = [k for k in (1, 2, 3, 5, 8, 11, 15, 20, 30, 40, 50) if k < length - CONTEXT]
    rows = []
    for b in range(min(4, len(data.frames))):
        at = (length // 4) * b % (length - columns[-1] - CONTEXT) + CONTEXT - 1
        dream = open_loop(agent, inferred(outputs, data.actions, b), [at], columns[-1], generator)[0]
        rows.append([to_picture(data.frames[b, at + k]) for k in columns])
        rows.append([to_picture(dream[k - 1]) for k in columns])
    return grid(rows)


def components_picture(outputs: dict[str, Any], rewards: Tensor, episodes: int = 6) -> Picture:
    """Per episode: a strip whose colours are the responsibilities of the mixture's components, over one of rewards."""
    shares = outputs["responsibilities"][:episodes].cpu().numpy()  # [E, L, K]
    colours = palette(shares.shape[-1])
    paid = rewards[:episodes].cpu().numpy()
    paid = paid / max(1e-8, float(np.abs(paid).max()))
    rows = []
    for share, reward in zip(shares, paid, strict=True):
        strip = to_uint8((share @ colours / 255)[None].repeat(24, 0))
        rows.append([np.concatenate([strip, to_uint8(reward.clip(0, 1)[None, :, None].repeat(6, 0).repeat(3, 2))])])
    width = shares.shape[1]
    return grid([[x.repeat(max(1, 750 // width), axis=1)] for (x,) in rows], gap=4)


def to_uint8(values: NDArray[Any]) -> Picture:
    """Numbers in [0, 1] as bytes."""
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def to_picture(frame: Tensor) -> Picture:
    """float [3, 64, 64] -> uint8 [64, 64, 3]."""
    return to_uint8(frame.movedim(0, -1).cpu().numpy())


def grid(rows: Sequence[Sequence[Picture]], gap: int = 2) -> Picture:
    """Pictures of one size, row by row on white."""
    height, width, _ = rows[0][0].shape
    canvas = np.full((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            canvas[i * (height + gap) :, j * (width + gap) :][:height, :width] = picture
    return canvas


def value_figures(agent: Agent, outputs: dict[str, Any], data: HeldOut) -> dict[str, float]:
    """The critic's mean value in the first halves of the episodes, and the mean discounted return that came."""
    value, came = values_and_returns(agent, outputs["states"].features, data.rewards, data.is_terminal)
    return {"policy/value": float(value.mean()), "policy/return": float(came.mean())}


@torch.no_grad()
def examine(agent: Agent, data: HeldOut, seed: int, mode: Mode, pictures: Path | None = None) -> dict[str, float]:
    """All figures of held-out episodes that were played in a mode; the pictures go into a folder."""
    agent.model.eval()
    generator = torch.Generator(agent.device).manual_seed(seed)
    given = {"generator": generator, "sample": False, "vectors": data.vectors}
    output = agent.model(data.frames, data.actions, None, data.rewards, data.is_terminal, **given)
    outputs = output.as_dict()
    found = reconstruction_figures(agent, outputs, data.frames) | open_loop_figures(agent, outputs, data, generator)
    found |= policy_figures(agent, outputs, data, mode, generator) | value_figures(agent, outputs, data)
    measured = monitors.measure(agent.model, output, generator)
    found |= {name: float(value) for name, value in measured.items()}
    found |= {name: float(outputs[name].mean()) for name in SHOWN if name in outputs}
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        drawn = {
            "open_loop": open_loop_picture(agent, outputs, data, generator),
            "dream": dream_picture(agent, outputs, mode, generator),
        }
        if "responsibilities" in outputs:
            drawn["components"] = components_picture(outputs, data.rewards)
        if agent.model.attention is not None:
            shown = np.linspace(CONTEXT, data.frames.shape[1] - 1, 10).astype(int)
            found_maps = (
                outputs[name][0, shown] for name in ("slot_responsibilities", "attention_maps", "prior_attention_maps")
            )
            drawn["attention"] = attention_picture(data.frames[0, shown], *found_maps)
        for name, picture in drawn.items():
            Image.fromarray(picture).save(pictures / f"{name}.jpg", quality=90)
    return found


def measure(given: argparse.Namespace) -> Report:
    """Play and examine -> {"run", "figures"}."""
    agent = load(given.logdir)
    if given.dream_noise is not None:
        agent.model.config = replace(agent.model.config, dream_noise=given.dream_noise)
    data = play(agent, given.episodes, given.seed, given.mode)
    figures = examine(agent, data, given.seed, given.mode, given.pictures)
    run = {"task": agent.config.task, "updates": agent.updates, "dream_noise": agent.model.config.dream_noise}
    return {"run": run | {"return": float(data.rewards.sum(1).mean())}, "figures": figures}


def show(console: Console, report: Report) -> None:
    """Print the figures as a table."""
    table = Table("figure", "value", title=f"{report['run']['task']} after {report['run']['updates']} updates")
    for name, value in report["figures"].items():
        table.add_row(name, f"{value:.3g}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, examine, print, write."""
    command = Command("learning.examine", __doc__)
    command.add_argument("logdir", type=Path)
    command.add_number("episodes", 8, "at least two: z is swapped between them", least=2)
    command.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="of the first held-out episode")
    command.add_argument("--mode", choices=("sample", "deterministic"), default="sample", help="of the actions")
    command.add_argument("--dream_noise", type=float, help="instead of the run's own world_model.dream_noise")
    command.add_argument("--pictures", type=Path, help="folder for pictures")
    return command.run(arguments, measure, show)


if __name__ == "__main__":
    sys.exit(main())
