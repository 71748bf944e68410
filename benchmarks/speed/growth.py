"""How the cost of an update grows with T, batch, K and hidden size, and that of acting with the number of environments.

    python -m benchmarks.speed.growth [--preset cpu] [--axes length batch] [--threads 2] [--repeats 5]
        [--json out.json] [--picture out.png]

One axis at a time is doubled from a base (batch 8 x 16; 2 x T along the length), all else is the preset's, all pillars
on. The values of an axis take turns; seconds are medians, an update's the mean from one solve of RGB to the next; with
--threads 1 on a CPU they are the process' own, so a busy machine counts for little.
FLOPs are those of matrix products, convolutions and attention: they have no noise, but leave out elementwise work, most
of what K adds. Two exponents: the slope of log cost against log value over all values, in which a fixed cost hides
growth, and over the last doubling, in which it hides least. 1 is linear.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel

from agent.config.presets import make_config
from agent.learning.agent import Agent, choose_device
from benchmarks.harness.command import Command, Report
from benchmarks.harness.timing import Meter, alternate, clock, uses_processor_time
from benchmarks.speed.peer_update import ACTIONS, random_chunk
from benchmarks.speed.pillars import FlopMeter
from replay import Chunk

BATCH, LENGTH, LONG_BATCH = 8, 16, 2  # the base, and the batch along the length
AXES: dict[str, list[int]] = {
    "length": [16, 32, 64, 128, 256],
    "batch": [2, 4, 8, 16, 32],
    "components": [2, 4, 8, 16, 32],
    "hidden": [64, 128, 256, 512, 1024],
    "envs": [1, 2, 4, 8, 16, 32],
}
ALL_PILLARS = {"world_model.perceiver_config.enabled": True, "world_model.attention_config.enabled": True}
SETTINGS = {"components": "world_model.max_components", "hidden": "world_model.hidden_dim"}
PANEL, MARGIN = 220, 36  # pixels of the picture

Work = Callable[[], None]


def make_work(axis: str, value: int, preset: str) -> tuple[Work, int]:
    """What is timed at one value of an axis, and how often it is done in one call: updates, or a step of acting."""
    overrides = ALL_PILLARS | ({SETTINGS[axis]: value} if axis in SETTINGS else {})
    config = make_config(preset, "walker_walk", overrides)
    agent = Agent(config, ACTIONS)
    if axis == "envs":
        images = np.random.default_rng(0).integers(0, 256, (value, 64, 64, 3), np.uint8)
        memory, first = agent.initial_state(value), np.zeros(value, bool)

        def act() -> None:
            agent.act(images, first, memory, "collect")

        return act, 1
    batch = {"batch": value, "length": LONG_BATCH}.get(axis, BATCH)
    noise = random_chunk(batch, value if axis == "length" else LENGTH)
    chunk = Chunk(**{name: torch.from_numpy(x) for name, x in noise.items()}).to(agent.device)
    rounds = config.update_round

    def updates() -> None:
        for _ in range(rounds):
            agent.update(chunk)
        if agent.device.type == "cuda":
            torch.cuda.synchronize()

    return updates, rounds


def count_gflops(work: Work) -> float:
    """GFLOP of one call."""
    with sdpa_kernel(SDPBackend.MATH), FlopMeter() as counter:  # the CPU's own attention kernel has no formula
        work()
    return counter.total / 1e9


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Least-squares slope of ln cost against ln value: costs = constant * value ** slope."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def grow(axis: str, values: Sequence[int], preset: str, repeats: int, now: Meter) -> dict[str, Any]:
    """One axis: its values, seconds, GFLOP and their exponents over all values ("all") and the last two ("last")."""
    works, rounds = zip(*(make_work(axis, value, preset) for value in values), strict=True)
    milliseconds = alternate(dict(zip(values, works, strict=True)), repeats, now)
    costs = {
        "gflops": [count_gflops(work) / n for work, n in zip(works, rounds, strict=True)],
        "seconds": [milliseconds[value] / n / 1000 for value, n in zip(values, rounds, strict=True)],
    }
    slopes = {
        unit: {"all": exponent(values, cost), "last": exponent(values[-2:], cost[-2:])} for unit, cost in costs.items()
    }
    return {"values": list(values), **costs, "exponents": slopes}


def measure(given: argparse.Namespace) -> Report:
    """Run all measurements -> {"settings", "axes"}."""
    device = choose_device(make_config(given.preset, "walker_walk", ALL_PILLARS).device)
    settings = {"batch": BATCH, "length": LENGTH, "device": str(device)}
    settings["seconds"] = "of the processor" if uses_processor_time(device, given.threads) else "of the wall"
    now = clock(device, given.threads)
    grown = {axis: grow(axis, AXES[axis], given.preset, given.repeats, now) for axis in given.axes}
    return {"settings": settings, "axes": grown}


def draw(axes: Mapping[str, dict[str, Any]]) -> Image.Image:
    """A log-log panel per axis: measured seconds (dots, line), their first point growing linearly (grey)."""
    picture = Image.new("RGB", (PANEL * len(axes), PANEL), "white")
    pen = ImageDraw.Draw(picture)
    for column, (axis, found) in enumerate(axes.items()):
        x = np.log2(np.array(found["values"]) / found["values"][0])
        y = np.log2(np.array(found["seconds"]) / found["seconds"][0])
        span = max(x.max(), y.max(), 1.0) - min(y.min(), 0.0)
        unit = (PANEL - 2 * MARGIN) / span  # pixels of a doubling, the same along both: linear is the diagonal
        left, bottom = column * PANEL + MARGIN, PANEL - MARGIN + unit * min(y.min(), 0.0)
        pen.line([(left, bottom), (left + unit * x.max(), bottom - unit * x.max())], "silver", 2)
        points = [(left + unit * right, bottom - unit * up) for right, up in zip(x, y, strict=True)]
        pen.line(points, "navy", 2)
        for (across, down), value in zip(points, found["values"], strict=True):
            pen.ellipse((across - 3, down - 3, across + 3, down + 3), "navy")
            pen.text((across, PANEL - MARGIN + 6), str(value), "black", anchor="ma")
        slope = found["exponents"]["seconds"]
        first, last = (1000 * found["seconds"][i] for i in (0, -1))
        pen.text((column * PANEL + 8, 4), f"{axis}: {first:.4g} to {last:.4g} ms", "black")
        pen.text((column * PANEL + 8, 16), f"exponent {slope['all']:.2f}, last {slope['last']:.2f}", "black")
    return picture


def show(console: Console, report: Report) -> None:
    """Print the report as a table."""
    settings = report["settings"]
    table = Table("axis", "value", "ms", "GFLOP", "exponent of ms: all, last", "of GFLOP: all, last")
    table.title = f"Cost of an update (envs: of a step of acting), preset {settings['preset']} on {settings['device']}"
    for axis, found in report["axes"].items():
        slopes = [f"{s['all']:.2f}, {s['last']:.2f}" for s in (found["exponents"][u] for u in ("seconds", "gflops"))]
        rows = list(zip(found["values"], found["seconds"], found["gflops"], strict=True))
        for i, (value, seconds, gflops) in enumerate(rows):
            ends = slopes if i == len(rows) - 1 else ["", ""]
            figures = (str(value), f"{1000 * seconds:.1f}", f"{gflops:.2f}")
            table.add_row(axis if i == 0 else "", *figures, *ends, end_section=i == len(rows) - 1)
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write, draw."""
    command = Command("speed.growth", __doc__)
    command.add_argument("--preset", default="cpu")
    command.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    command.add_number("threads", 2, "CPU threads of torch")
    command.add_number("repeats", 5, "turns that a median is taken over")
    command.add_file("picture", "PNG file of the curves")

    def measure_and_draw(given: argparse.Namespace) -> Report:
        report = measure(given)
        if given.picture is not None:
            draw(report["axes"]).save(given.picture, format="PNG", optimize=True)
        return report

    return command.run(arguments, measure_and_draw, show)


if __name__ == "__main__":
    sys.exit(main())
