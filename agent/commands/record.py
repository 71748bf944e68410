"""record: a video of whole episodes, of the world model's view of one, or of its dreams."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from math import ceil, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

from agent.commands import Job, say
from agent.commands.parser import (
    PROGRAM,
    Parser,
    add_overwrite,
    add_planner,
    check_at_least,
    check_target,
    default_file,
    load_agent,
    planner_settings,
    run_parser,
    written,
)

if TYPE_CHECKING:
    from agent.evaluation.episodes import TrainedPlayer
    from agent.learning.agent import Agent

MOST_PIXELS = 4096  # side of the largest H.264 frames that common players show
# The options of each kind of video with their defaults.
EPISODES: dict[str, object] = {
    "episodes": 1,
    "size": 256,
    "width": None,
    "grid": False,
    "captions": None,
    "mode": "deterministic",
}
DREAM: dict[str, object] = {"context": 5, "mode": "deterministic"}
IMAGINATION: dict[str, object] = {"context": 5, "horizon": 50, "dreams": 8, "mode": "sample"}
MOST = {"size": MOST_PIXELS, "width": MOST_PIXELS, "dreams": 1000}
LEAST = {"episodes": 1, "size": 16, "width": 16, "context": 1, "horizon": 1, "dreams": 1}


def prepare(arguments: list[str]) -> Job:
    """Load a run's agent; the job writes a video of its episodes, or of its world model's dreams."""
    options, planning = _parser().parse(arguments, planner_settings())
    if options.dream and options.imagine:
        raise ValueError("got --dream and --imagine, expected one of them")
    kind = "imagine" if options.imagine else "dream" if options.dream else "record"
    _fill_in(options, kind)
    path = options.out if options.out is not None else default_file(options, "videos", f"{kind}.mp4")
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"out: got '{path}', expected a name ending in .mp4 or .gif")
    check_target(path, "out", options.out is None or options.overwrite)
    agent = load_agent(options, planning)
    if kind != "record" and agent.config.algo != "aime":
        raise ValueError(f"{kind}: got a run of {agent.config.algo}, which has no world model, expected one of aime")
    if kind != "record" and agent.config.env.size == 0:
        raise ValueError(f"{kind}: got an agent of vectors alone (env.size 0), whose dreams have no frames to show")
    writers: dict[str, Callable[..., None]]
    writers = {"record": _write_episodes, "dream": _write_dream, "imagine": _write_imagination}
    return lambda: _write(partial(writers[kind], agent, path, options), path)


def _write(job: Callable[[], None], path: Path) -> int:
    from agent.video.dreams import ShortEpisodeError
    from envs.encoders import choose_encoder

    path = choose_encoder(path).path  # a gif if no mp4 can be written
    is_old = path.exists()
    try:
        job()
    except ShortEpisodeError as error:  # known only after the episode was played; nothing has been written yet
        say(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    say(written(path, is_old))
    return 0


def _parser() -> Parser:
    parser = run_parser("record")
    parser.add_argument("--out", type=Path, help="an .mp4 or .gif file (default: in videos/ of the run)")
    add_overwrite(parser)
    add_planner(parser)
    parser.add_argument(
        "--mode", choices=("deterministic", "sample"), help="how actions are chosen (default: deterministic)"
    )
    episodes = parser.add_argument_group("videos of episodes")
    episodes.add_argument("--episodes", type=int, help="episodes in the video (default: 1)")
    episodes.add_argument("--grid", action="store_true", default=None, help="show the episodes side by side")
    episodes.add_argument("--size", type=int, help="height of the frames in pixels (default: 256)")
    episodes.add_argument("--width", type=int, help="width of the frames in pixels (default: their height)")
    captions = argparse.BooleanOptionalAction
    episodes.add_argument("--captions", action=captions, help="time, reward, return (default: if 128 pixels or wider)")
    dreams = parser.add_argument_group("videos of the world model")
    dreams.add_argument("--dream", action="store_true", help="one episode: real, reconstruction, open loop, errors")
    dreams.add_argument(
        "--imagine", action="store_true", help="dreams under the agent's policy (default --mode: sample)"
    )
    dreams.add_argument("--context", type=int, help="frames that the model sees before it dreams (default: 5)")
    dreams.add_argument("--horizon", type=int, help="steps of each --imagine dream (default: 50)")
    dreams.add_argument("--dreams", type=int, help="number of --imagine dreams (default: 8)")
    return parser


def _fill_in(options: argparse.Namespace, kind: str) -> None:
    """Fill in this kind of video's defaults. ValueError for an option that it does not take, or one out of range."""
    takes = {"record": EPISODES, "dream": DREAM, "imagine": IMAGINATION}[kind]
    for name in EPISODES | DREAM | IMAGINATION:
        given = getattr(options, name)
        if given is not None and name not in takes:
            expected = ", ".join(f"--{taken}" for taken in takes)
            raise ValueError(f"{name}: got {given}, which this kind of video does not take, expected {expected} only")
        if given is None:
            setattr(options, name, takes.get(name))
    bounded = {name: least for name, least in LEAST.items() if getattr(options, name) is not None}
    check_at_least(options, seed=0, **bounded)
    for name, most in MOST.items():
        if (getattr(options, name) or 0) > most:
            raise ValueError(f"{name}: got {getattr(options, name)}, expected at most {most}")
    side = max(options.size or 0, options.width or 0)
    if options.grid and ceil(sqrt(options.episodes)) * side > MOST_PIXELS:
        most = (MOST_PIXELS // side) ** 2
        raise ValueError(f"episodes: got {options.episodes} in a grid, expected at most {most} of {side} pixels")


def _write_episodes(agent: "TrainedPlayer", path: Path, options: argparse.Namespace) -> None:
    from agent.evaluation.episodes import cut_line
    from agent.video.recording import record

    chosen = {name: getattr(options, name) for name in EPISODES}
    results = record(agent, path, seed=options.seed, **chosen)
    for result in results:
        say(f"return {result.total:.2f} in {result.length} agent_steps")
    if line := cut_line(agent.config, [result.is_cut for result in results]):
        say(line)


def _write_dream(agent: "Agent", path: Path, options: argparse.Namespace) -> None:
    from agent.video.dream_video import record_dream

    scores = record_dream(agent, path, options.seed, options.context, options.mode)
    ahead = "  ".join(f"+{k} {value:.2f}" for k, value in scores.open_loop.items())
    say(f"PSNR in dB: reconstruction {scores.reconstruction:.2f}  mean frame {scores.mean_frame:.2f}")
    say(f"  open loop, steps ahead: {ahead}")
    if scores.cut_at is not None:
        say(f"the episode did not end: cut off after {scores.cut_at:,} agent_steps")


def _write_imagination(agent: "Agent", path: Path, options: argparse.Namespace) -> None:
    from agent.video.imagination import record_imagination

    chosen = {name: getattr(options, name) for name in IMAGINATION}
    found = record_imagination(agent, path, seed=options.seed, **chosen)
    dreamt = found.dreamt
    ended = "" if found.steps == options.horizon else f" (of {options.horizon}: the episode ended)"
    say(f"sum of {found.steps} rewards{ended}: real {found.real:.2f}")
    say(f"  {len(dreamt)} dreams: mean {sum(dreamt) / len(dreamt):.2f}, from {min(dreamt):.2f} to {max(dreamt):.2f}")
    say(f"  critic's value at the start (discounted, infinite horizon): {found.value:.2f}")
