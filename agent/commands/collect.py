"""collect: whole episodes of random actions or of an agent, as a folder of files or a dataset of Minari."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agent.commands import Job, say
from agent.commands.parser import (
    Parser,
    add_playing,
    add_source,
    check_at_least,
    check_writable,
    config_keys,
    load_agent,
    new_config,
)

if TYPE_CHECKING:
    from gymnasium import Space

    from agent.config.settings import Config
    from agent.evaluation.episodes import Player, TrainedPlayer
    from agent.run_folder.datasets import About
    from replay import Episode

HELP = """Settings of the environment are options too where no agent brings its own: --env.action_repeat 4."""


class _Asked(NamedTuple):
    """Who plays what."""

    options: argparse.Namespace
    config: "Config"
    agent: "TrainedPlayer | None"
    observations: "Space[Any]"
    is_discrete: bool
    action_dim: int


def prepare(arguments: list[str]) -> Job:
    """Load the agent, if one plays, and check task and target; the job plays and writes the episodes."""
    options, overrides = _read(arguments)
    from agent.evaluation.episodes import agent_env
    from agent.run_folder.datasets import MINARI, About, check_empty
    from envs.spaces import OneHot
    from replay.minari_format import check_new

    if options.out.startswith(MINARI):
        check_new(options.out.removeprefix(MINARI))
    else:
        check_empty(Path(options.out))
        check_writable(Path(options.out), "out")
    agent = None if options.logdir is None and options.agent is None else load_agent(options)
    config = new_config(options, overrides, lambda _: None) if agent is None else agent.config
    with agent_env(config) as env:
        space, seen = env.action_space, env.observation_space
    assert space.shape is not None
    asked = _Asked(options, config, agent, seen, isinstance(space, OneHot), space.shape[0])
    return lambda: _collect(asked, About.of(config, _describe(options)))


def _read(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser("collect", epilog=HELP)
    parser.add_argument("--task", help="task to play (default: the agent's, else cartpole_swingup)")
    parser.add_argument("--preset", help="preset whose settings of the environment count where no agent brings its own")
    parser.add_argument("--episodes", type=int, default=10, help="number of episodes (default: 10)")
    text = "who plays (default: agent if there is one, else random)"
    parser.add_argument("--policy", choices=("random", "agent", "noisy"), help=text)
    add_source(parser, required=False)
    text = "std of the noise on a noisy agent's actions; share of random ones if discrete (default: 0.3)"
    parser.add_argument("--noise", type=float, help=text)
    text = "how an agent's actions are chosen (default: deterministic)"
    parser.add_argument("--mode", choices=("deterministic", "sample"), default="deterministic", help=text)
    parser.add_argument("--out", required=True, metavar="DIR|minari:NAME", help="a new folder, or a new dataset")
    add_playing(parser)
    options, overrides = parser.parse(arguments, [key for key in config_keys() if key.startswith("env.")])
    check_at_least(options, episodes=1, seed=0)
    has_agent = options.logdir is not None or options.agent is not None
    options.policy = options.policy or ("agent" if has_agent else "random")
    if options.policy != "random" and not has_agent:
        raise ValueError(f"policy: got {options.policy}, expected --logdir or --agent with it")
    if has_agent and (overrides or options.preset is not None):
        given = overrides[0] if overrides else "--preset"
        raise ValueError(f"{given.removeprefix('--')}: got a value, expected none: the agent brings its own settings")
    if options.noise is not None and options.policy != "noisy":
        raise ValueError(f"noise: got {options.noise} for policy {options.policy}, expected --policy noisy with it")
    options.noise = 0.3 if options.noise is None else options.noise
    return options, overrides


def _describe(options: argparse.Namespace) -> str:
    """Return who plays, in a few words."""
    if options.policy == "random":
        return "random"
    who = options.agent if options.agent is not None else f"run {options.logdir.resolve().name}"
    noise = f", noise {options.noise:g}" if options.policy == "noisy" else ""
    return f"{who}, {options.mode}{noise}"


def _collect(asked: _Asked, about: "About") -> None:
    from agent.run_folder.datasets import MINARI, FolderWriter
    from replay.minari_format import write_minari

    options, returns = asked.options, list[float]()

    def episodes() -> "Iterator[Episode]":
        for episode in _played(asked):
            returns.append(float(episode.reward.sum(dtype=np.float64)))
            say(f"episode {len(returns)} of {options.episodes}: return {returns[-1]:.2f}")
            yield episode

    say(f"{about.task}: {options.episodes} episodes from seed {options.seed}, {about.policy}")
    if options.out.startswith(MINARI):
        space = asked.observations, asked.action_dim, asked.is_discrete
        write_minari(options.out.removeprefix(MINARI), episodes(), *space, vars(about))
    else:
        writer = FolderWriter(Path(options.out), about)
        for seed, episode in enumerate(episodes(), options.seed):
            writer.add(episode, seed)
    say(f"written to {options.out}: {len(returns)} episodes, mean return {np.mean(returns):.2f}")


def _played(asked: _Asked) -> "Iterator[Episode]":
    """Play the episodes."""
    from contextlib import nullcontext

    from agent.evaluation.episodes import RandomPlayer, agent_env, seeded
    from agent.evaluation.recorded import NoisyPlayer, played_episodes

    options, agent = asked.options, asked.agent
    seeds = range(options.seed, options.seed + options.episodes)
    with agent_env(asked.config) as env, nullcontext() if agent is None else seeded(agent, options.seed):
        player: Player = RandomPlayer(env.action_space, options.seed)
        if agent is not None and options.policy != "random":
            player = agent
        if options.policy == "noisy":
            player = NoisyPlayer(player, options.noise, asked.is_discrete, options.seed)
        for episode, _ in played_episodes(player, env, seeds, options.mode):
            yield episode
