"""What each pillar costs in one update of the world model: parameters, FLOPs, milliseconds; and what RGB adds.

    python -m benchmarks.speed.pillars [--preset reference] [--task T] [--batch 8] [--length 16] [--threads 2]
        [--repeats 5] [--json out.json]

The figures are taken around the calls of real updates. Parts may call each other: what is spent belongs to the
innermost part that is running, so nothing counts twice, "other" is what no part claims, and the totals are the sums of
the rows. 1 MAC = 2 FLOP; matrix products, convolutions and attention are counted, elementwise work is not. Milliseconds
are medians over --repeats rounds, in which plain sum, RGB at every update and lazy RGB (solve to solve) take turns;
with --threads 1 on a CPU they are the process' own, so a busy machine counts for little.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from statistics import mean, median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from agent.config.presets import make_config
from agent.config.settings import Config
from agent.learning.agent import choose_device
from agent.learning.model_learner import ModelLearner
from benchmarks.harness.command import Command, Report
from benchmarks.harness.timing import Meter, clock
from envs.tasks import checked_task
from world_model import DPGMMVariationalRecurrentAutoencoder, losses, terms

FORWARD, BACKWARD, UPDATE = "whole forward", "backward of the sum", "whole update"
OTHER_OF_FORWARD, OTHER_OF_UPDATE = "other of the forward", "other of the update"
DEFAULT_EVERY = 4  # of lazy RGB where the preset solves at every update

Costs = dict[str, float]  # part -> amount
Call = tuple[Any, str]  # owner and name of a function


class Part(NamedTuple):
    """A row of the table: whose parameters it holds and which calls belong to it."""

    name: str
    modules: Sequence[nn.Module | None]  # None where a pillar is off
    calls: Sequence[Call]


class FlopMeter(TorchDispatchMode):
    """FLOPs of every operation run in it, by torch's formulas (FlopCounterMode itself rejects our `autograd.grad`)."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class Ledger:
    """Books what a meter rises by on the innermost part that is running."""

    def __init__(self, meter: Meter, outermost: str) -> None:
        self.amounts: defaultdict[str, float] = defaultdict(float)
        self._meter, self._running, self._read = meter, [outermost], meter()

    def settle(self) -> None:
        """Book what was spent since the last time."""
        now = self._meter()
        self.amounts[self._running[-1]] += now - self._read
        self._read = now

    def charge(self, part: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        """`inner`, what it spends booked on `part`."""

        def booked(*args: Any, **kwargs: Any) -> Any:
            self.settle()
            self._running.append(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self.settle()
                self._running.pop()

        return booked


def calls(owner: Any, *names: str) -> list[Call]:
    """These functions of an owner; none of a pillar that is off."""
    return [] if owner is None else [(owner, name) for name in names]


def forward_parts(model: DPGMMVariationalRecurrentAutoencoder) -> list[Part]:
    """The parts of `forward`; one that is switched off is left out."""
    trunk, norm, perceiver, predictor = model.trunk, model.frame_norm, model.perceiver, model.context_predictor
    seeing = calls(trunk, "forward", "halfway") + calls(norm, "forward", "initialise", "update")
    reading = calls(perceiver, "forward", "reconstruct", "update_codebook") + calls(terms, "perceiver_terms")
    scan = calls(model, "observe") + calls(predictor, "forward")  # trunk and Perceiver run in it, on their own rows
    attending = calls(model.attention, "forward", "losses") + calls(terms, "attention_terms")
    judging = calls(model.reward_head, "nll") + calls(model.continue_head, "forward") + calls(losses, "continue_nll")
    parts = [
        Part("trunk, frame norm", [trunk, norm], seeing),
        Part("pillar 1: Perceiver IO, VQ", [perceiver], reading),
        Part("posterior, pillar 3: scan", [model.posterior, model.dynamics, predictor], scan),
        Part("pillar 2: mixture prior", [model.prior], calls(terms, "prior_terms")),
        Part("slow latent", [model.slow], calls(model.slow, "forward", "loss")),
        Part("pillar 4: attention", [model.attention], attending),
        Part("decoder", [model.decoder], calls(terms, "reconstruction_terms")),
        Part("reward, continue heads", [model.reward_head, model.continue_head], judging),
        Part("gram teacher", [model.teacher], calls(model.teacher, "loss")),
    ]
    return [part for part in parts if any(module is not None for module in part.modules)]


def update_parts(learner: ModelLearner) -> list[Part]:
    """The parts of `ModelLearner.update`, those of the forward first."""
    stepping = calls(nn.utils, "clip_grad_norm_") + calls(learner.optimizer, "zero_grad", "step")
    return [
        *forward_parts(learner.model),
        Part(OTHER_OF_FORWARD, [], calls(learner.model, "forward")),
        Part(BACKWARD, [], calls(learner.rgb, "backward")),
        Part("optimizer step, clipping", [], stepping),
        Part("component usage, teacher's step", [], calls(learner.model, "after_update")),
        Part(OTHER_OF_UPDATE, [], []),
    ]


def spend(learner: ModelLearner, chunk: Sequence[Any], meter: Meter) -> Costs:
    """Make one update on a chunk -> what each part added to the meter."""
    parts, ledger = update_parts(learner), Ledger(meter, OTHER_OF_UPDATE)
    with ExitStack() as wrapped:
        for part in parts:
            for owner, name in part.calls:
                wrapped.enter_context(patch.object(owner, name, ledger.charge(part.name, getattr(owner, name))))
        learner.update(*chunk)
        ledger.settle()
    return {part.name: ledger.amounts[part.name] for part in parts}


def block(learner: ModelLearner, chunk: Sequence[Any], meter: Meter) -> list[Costs]:
    """As many updates as RGB makes from one solve to the next."""
    return [spend(learner, chunk, meter) for _ in range(learner.rgb.every)]


def typical(blocks: Sequence[Sequence[Costs]]) -> Costs:
    """Per update: for each place in a block the median over all blocks, then the mean of the places."""
    places = list(zip(*blocks, strict=True))
    return {part: mean(median(one[part] for one in place) for place in places) for part in places[0][0]}


def make_learner(model: DPGMMVariationalRecurrentAutoencoder, config: Config, method: str, every: int) -> ModelLearner:
    """The preset's learner, its way of joining the three gradients replaced."""
    settings = replace(model.config.rgb_config, method=method, every=every)
    model.config = replace(model.config, use_rgb=True, rgb_config=settings)
    return ModelLearner(model, config.losses, config.optimizer)


def random_chunk(config: Config, batch: int, length: int, device: torch.device) -> list[Tensor]:
    """Arguments of `ModelLearner.update`: noise of one episode per row; its cost is that of any other chunk."""
    draw = torch.Generator().manual_seed(config.seed)
    shape, first = (batch, length), torch.zeros(batch, length, dtype=torch.bool)
    first[:, 0] = True
    frames = torch.rand(*shape, 3, 64, 64, generator=draw)
    actions = 2 * torch.rand(*shape, config.world_model.action_dim, generator=draw) - 1
    chunk = [frames, actions, first, torch.rand(shape, generator=draw), torch.zeros(shape, dtype=torch.bool)]
    return [tensor.to(device) for tensor in chunk]


def part_rows(learner: ModelLearner, gflops: Costs, ms: Costs) -> list[dict[str, Any]]:
    """A row per part, totals behind the parts they sum up: part, parameters (trainable), gflops, ms, share."""
    rows: list[dict[str, Any]] = []

    def total(name: str) -> dict[str, Any]:
        sums = {key: sum(row[key] for row in rows if row["part"] != FORWARD) for key in ("parameters", "gflops", "ms")}
        return {"part": name, **sums}

    for part in update_parts(learner):
        weights = [p for module in part.modules if module is not None for p in module.parameters() if p.requires_grad]
        found = {"parameters": sum(p.numel() for p in weights), "gflops": gflops[part.name], "ms": ms[part.name]}
        rows.append({"part": part.name, **found})
        if part.name == OTHER_OF_FORWARD:
            rows.append(total(FORWARD))
    rows.append(total(UPDATE))
    return [row | {"share": row["ms"] / rows[-1]["ms"]} for row in rows]


def balance_row(name: str, gflops: Costs, ms: Costs) -> dict[str, Any]:
    """One way of joining the gradients: its backward and its whole update, per update."""
    return {
        "gradients": name,
        "backward_gflops": gflops[BACKWARD],
        "backward_ms": ms[BACKWARD],
        "update_gflops": sum(gflops.values()),
        "update_ms": sum(ms.values()),
    }


def measure(config: Config, batch: int, length: int, threads: int, repeats: int) -> Report:
    """Run all measurements -> {"settings", "parts", "gradients"}."""
    device = choose_device(config.device)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(config.seed)
        model = DPGMMVariationalRecurrentAutoencoder(**vars(config.world_model)).to(device)
    chunk: list[Any] = [*random_chunk(config, batch, length, device), torch.Generator(device).manual_seed(config.seed)]
    balance = config.world_model.rgb_config
    learners = {"plain sum": make_learner(model, config, "sum", 1)}
    if config.world_model.use_rgb and balance.method == "rgb":
        lazy = balance.every if balance.every > 1 else DEFAULT_EVERY
        learners["RGB, every update"] = make_learner(model, config, "rgb", 1)
        learners[f"RGB, every {lazy} updates"] = make_learner(model, config, "rgb", lazy)
    elif config.world_model.gradient_method == "balanced":
        name = f"balanced sum, every {balance.every} updates"
        learners[name] = make_learner(model, config, "balanced", balance.every)
    with sdpa_kernel(SDPBackend.MATH), FlopMeter() as counter:  # the CPU's own attention kernel has no formula
        counted = [block(learner, chunk, lambda: counter.total / 1e9) for learner in learners.values()]
    gflops = {name: typical([one]) for name, one in zip(learners, counted, strict=True)}
    now = clock(device, threads)
    rounds = [[block(learner, chunk, now) for learner in learners.values()] for _ in range(repeats)]
    ms = {name: typical(blocks) for name, *blocks in zip(learners, *rounds, strict=True)}
    gradients = [balance_row(name, gflops[name], ms[name]) for name in learners]
    for row in gradients:
        for unit in ("gflops", "ms"):
            row[f"rgb_share_{unit}"] = row[f"update_{unit}"] / gradients[0][f"update_{unit}"] - 1
    return {
        "settings": {"task": config.task, "device": str(device), "world_model": asdict(config.world_model)},
        "parts": part_rows(learners["plain sum"], gflops["plain sum"], ms["plain sum"]),
        "gradients": gradients,
    }


def show(console: Console, report: Report) -> None:
    """Print the report as tables."""
    settings = report["settings"]
    sizes = f"batch {settings['batch']} x {settings['length']}, median of {settings['repeats']}"
    parts = Table("part", "parameters, M", "GFLOP", "ms", "share")
    parts.title = f"World model, preset {settings['preset']} for {settings['task']} on {settings['device']}, {sizes}"
    for row in report["parts"]:
        size = f"{row['parameters'] / 1e6:.2f}" if row["parameters"] else ""
        figures = (size, f"{row['gflops']:.2f}", f"{row['ms']:.1f}", f"{row['share']:.1%}")
        is_total = row["part"] in (FORWARD, UPDATE)
        parts.add_row(row["part"], *figures, end_section=is_total, style="bold" if is_total else None)
    names = ("backward GFLOP", "backward ms", "update GFLOP", "update ms", "RGB, FLOP", "RGB, ms")
    gradients = Table("gradients", *names, title="Pillar 5, per update")
    for row in report["gradients"]:
        costs = [f"{row[key]:.1f}" for key in ("backward_gflops", "backward_ms", "update_gflops", "update_ms")]
        gradients.add_row(row["gradients"], *costs, *(f"{row[f'rgb_share_{unit}']:+.1%}" for unit in ("gflops", "ms")))
    console.print(parts, gradients)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    command = Command("speed.pillars", __doc__)
    command.add_argument("--preset", default="reference")
    command.add_argument("--task", help="default: the preset's own, else cartpole_swingup")
    command.add_number("batch", 8, "sequences of an update")
    command.add_number("length", 16, "frames of a sequence")
    command.add_number("threads", 2, "CPU threads of torch")
    command.add_number("repeats", 5, "updates that a median is taken over")

    def of_options(given: argparse.Namespace) -> Report:
        config = make_config(given.preset, given.task)
        checked_task(config.task)
        return measure(config, given.batch, given.length, given.threads, given.repeats)

    return command.run(arguments, of_options, show)


if __name__ == "__main__":
    sys.exit(main())
