"""Playing whole episodes: one loop for evaluation and recording, and the figures that come of it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import Env
from numpy.typing import NDArray
from scipy.special import stdtrit

from agent.agent import Agent, Mode
from agent.config import Config
from envs import Step, make_env
from envs.pixels import PixelEnv


class Player(Protocol):
    """What chooses actions: an Agent, or uniform chance."""

    def initial_state(self, num_envs: int) -> Any:
        """Memory before the first frame."""

    def act(
        self, images: NDArray[np.uint8], is_first: NDArray[np.bool_], state: Any, mode: Mode
    ) -> tuple[NDArray[np.float32], Any]:
        """Actions [N, A] for images [N, 64, 64, 3], and the next memory."""


class RandomPlayer:
    """Uniformly random actions, whatever the frames show."""

    def __init__(self, action_dim: int, seed: int) -> None:
        self._action_dim, self._random = action_dim, np.random.default_rng(seed)

    def initial_state(self, num_envs: int) -> None:
        """Chance has no memory."""

    def act(
        self, images: NDArray[np.uint8], is_first: NDArray[np.bool_], state: None, mode: Mode
    ) -> tuple[NDArray[np.float32], None]:
        """Actions [N, A], uniform in [-1, 1]."""
        return self._random.uniform(-1, 1, (len(images), self._action_dim)).astype(np.float32), None


class EpisodeResult(NamedTuple):
    """One episode: the sum of its rewards, and its length in agent_steps."""

    total: float
    length: int


@dataclass(frozen=True)
class Evaluation:
    """Returns of whole episodes, and what one may say of their mean.

    std is that of the episodes (n - 1 in the denominator); the interval is the 95 % one of the mean by Student's t.
    Both are nan where there is a single episode.
    """

    task: str
    mode: str
    action_repeat: int
    render: str
    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    lengths: tuple[int, ...]  # agent_steps
    env_frames: tuple[int, ...]
    mean: float
    std: float
    interval_low: float
    interval_high: float

    def to_json(self) -> dict[str, Any]:
        """Every field as json.dump takes it; null where a number is not defined."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def play_episode(
    player: Player,
    env: Env[NDArray[np.uint8], NDArray[np.float32]],
    seed: int,
    mode: Mode = "deterministic",
    on_step: Callable[[Step], None] | None = None,
    max_steps: int | None = None,
) -> EpisodeResult:
    """Play one episode of one env from `seed` to its end, or to `max_steps` decisions.

    `on_step` gets every row with N = 1, the last frame with its zero action included, before the env moves on: so
    env.render_frame() shows the very state that the row's image shows.
    """
    image, _ = env.reset(seed=seed)
    state, reward, total, length = player.initial_state(1), 0.0, 0.0, 0
    is_terminal = is_last = False
    while True:
        is_first = np.array([length == 0])
        action, state = player.act(image[None], is_first, state, mode)
        if on_step is not None:
            executed = np.zeros_like(action) if is_last else action
            flags = np.array([is_last]), np.array([is_terminal])
            on_step(Step(image[None], np.array([reward], np.float32), is_first, *flags, executed))
        if is_last or length == max_steps:
            return EpisodeResult(total, length)
        image, gained, is_terminal, is_truncated, _ = env.step(action[0])
        reward, is_last = float(gained), is_terminal or is_truncated
        total, length = total + reward, length + 1


def evaluate(agent: Agent, episodes: int, seed: int = 0, mode: Mode = "deterministic") -> Evaluation:
    """Play `episodes` whole episodes of the agent's task, with the seeds seed, seed + 1, ...

    The result depends on weights and seed alone: sampled actions come from the seed, and the agent's own randomness
    goes on afterwards as if nothing had been played. ValueError where episodes is not positive.
    """
    with seeded(agent, seed):
        return play_episodes(agent, agent.config, episodes, seed, mode, mode)


def random_evaluation(config: Config, episodes: int, seed: int = 0) -> Evaluation:
    """The same for uniformly random actions: what a return is worth."""
    with agent_env(config) as env:
        player = RandomPlayer(env.action_space.shape[0], seed)  # type: ignore[index]
    return play_episodes(player, config, episodes, seed, "sample", "random")


def summarize(returns: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Mean, std, and the 95 % interval of the mean: mean -+ t(0.975, n - 1) std / sqrt(n)."""
    mean, count = float(np.mean(returns)), len(returns)
    if count < 2:
        return mean, math.nan, math.nan, math.nan
    std = float(np.std(returns, ddof=1))
    half = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count)
    return mean, std, mean - half, mean + half


@contextmanager
def seeded(agent: Agent, seed: int) -> Iterator[None]:
    """Inside, the agent's acting draws from `seed`; afterwards from where it was."""
    generator = agent.generators["act"]
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def agent_env(config: Config) -> Iterator[PixelEnv]:
    """One env as the run's config says, closed at the end."""
    env = make_env(config.task, action_repeat=config.env.action_repeat, render=config.env.render)
    try:
        yield env
    finally:
        env.close()


def play_episodes(player: Player, config: Config, episodes: int, seed: int, mode: Mode, label: str) -> Evaluation:
    """Whole episodes of the config's task with the seeds seed, seed + 1, ...; `label` is the result's `mode`."""
    if episodes < 1:
        raise ValueError(f"episodes: got {episodes}, expected a positive number")
    seeds = tuple(range(seed, seed + episodes))
    with agent_env(config) as env:
        results = [play_episode(player, env, s, mode) for s in seeds]
    returns, lengths = tuple(r.total for r in results), tuple(r.length for r in results)
    repeat = config.env.action_repeat
    frames = tuple(repeat * length for length in lengths)
    settings = (config.task, label, repeat, config.env.render)
    return Evaluation(*settings, seeds, returns, lengths, frames, *summarize(returns))
