"""Whole episodes: one loop for evaluation and recording, and the statistics of the returns."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import Env, Space
from numpy.typing import NDArray
from torch import Generator

from agent.config.settings import Config
from agent.evaluation.statistics import Summary, summarize
from agent.learning.agent import Mode
from envs import GymPixels, Step, make_env
from envs.driver import EnvironmentFailure
from envs.pixels import IS_CUT, Observation, PixelEnv, split
from envs.spaces import OneHot, random_actions
from envs.tasks import GYM_PREFIX
from envs.wording import describe_error
from envs.workers import close_env

EnvSource = str | Env[Any, Any] | Callable[[], Env[Any, Any]]  # a task, an environment, or a function that makes one


class Player(Protocol):
    """A source of actions: an Agent, a baseline, or uniform chance."""

    def initial_state(self, num_envs: int) -> Any:
        """Return the memory before the first frame."""

    def act(
        self,
        images: NDArray[np.uint8],
        is_first: NDArray[np.bool_],
        state: Any,
        mode: Mode,
        vectors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], Any]:
        """Return actions [N, A] for images [N, 64, 64, 3], and vectors [N, V] if there are any; and the next memory."""


class TrainedPlayer(Player, Protocol):
    """The Agent or baseline of a run, which draws its sampled actions from generators["act"] alone."""

    @property
    def config(self) -> Config:
        """The run's settings."""

    @property
    def updates(self) -> int:
        """The number of gradient steps so far."""

    @property
    def generators(self) -> dict[str, Generator]:
        """The random generators by name."""


class RandomPlayer:
    """A player of uniformly random actions that ignores the frames."""

    def __init__(self, space: Space[Any], seed: int) -> None:
        assert space.shape is not None
        self._action_dim, self._is_discrete = space.shape[0], isinstance(space, OneHot)
        self._random = np.random.default_rng(seed)

    def initial_state(self, num_envs: int) -> None:
        """Return None: random actions need no memory."""

    def act(
        self,
        images: NDArray[np.uint8],
        is_first: NDArray[np.bool_],
        state: None,
        mode: Mode,
        vectors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], None]:
        """Return actions [N, A], uniform in [-1, 1], or one-hot vectors."""
        return random_actions(len(images), self._action_dim, self._is_discrete, self._random), None


class EpisodeResult(NamedTuple):
    """One episode: the sum of its rewards, its length in agent_steps, and whether the env's max_steps cut it off."""

    total: float
    length: int
    is_cut: bool = False


@dataclass(frozen=True)
class Evaluation(Summary):
    """Whole episodes and the statistics of their returns."""

    task: str
    mode: str
    action_repeat: int
    render: str
    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    lengths: tuple[int, ...]  # agent_steps
    env_frames: tuple[int, ...]
    is_cut: tuple[bool, ...] = ()  # whether each episode was cut off at env.max_episode_frames

    def to_json(self) -> dict[str, Any]:
        """Return every field in a form for json.dump; null where a number is not defined."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def episode_rows(
    player: Player,
    env: Env[Observation, NDArray[np.float32]],
    seed: int,
    mode: Mode = "deterministic",
    max_steps: int | None = None,
) -> Iterator[tuple[Step, EpisodeResult]]:
    """Play one episode of one env from `seed` to its end, or to `max_steps` decisions, row by row.

    Yield every row with N = 1, including the last frame with its zero action, and the result so far. The env steps only
    afterwards, so env.render_frame() shows the same state as the row's image. EnvironmentFailure if the env raises.
    """
    with reported():
        observation, _ = env.reset(seed=seed)
    state, reward, result = player.initial_state(1), 0.0, EpisodeResult(0.0, 0)
    is_terminal = is_last = False
    while True:
        is_first = np.array([result.length == 0])
        image, vector = split(observation)
        image, vector = image[None], None if vector is None else vector[None]
        beside = () if vector is None else (vector,)  # players that see frames alone need not know of vectors
        action, state = player.act(image, is_first, state, mode, *beside)
        executed = np.zeros_like(action) if is_last else action
        flags = np.array([is_last]), np.array([is_terminal])
        yield Step(image, np.array([reward], np.float32), is_first, *flags, executed, vector), result
        if is_last or result.length == max_steps:
            return
        with reported():
            observation, gained, is_terminal, is_truncated, info = env.step(action[0])
        reward, is_last = float(gained), is_terminal or is_truncated
        result = EpisodeResult(result.total + reward, result.length + 1, info.get(IS_CUT, False))


@contextmanager
def reported() -> Iterator[None]:
    """Turn anything that an environment raises inside into a one-line EnvironmentFailure."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise EnvironmentFailure(f"the environment failed ({describe_error(error)})") from error


def play_episode(
    player: Player,
    env: Env[Observation, NDArray[np.float32]],
    seed: int,
    mode: Mode = "deterministic",
    on_step: Callable[[Step], None] | None = None,
    max_steps: int | None = None,
) -> EpisodeResult:
    """Play an episode as `episode_rows` does; `on_step` gets every row."""
    result = EpisodeResult(0.0, 0)
    for row, reached in episode_rows(player, env, seed, mode, max_steps):
        result = reached
        if on_step is not None:
            on_step(row)
    return result


def evaluate(
    agent: TrainedPlayer,
    episodes: int,
    seed: int = 0,
    mode: Mode = "deterministic",
    on_step: Callable[[Step], None] | None = None,
    env: EnvSource | None = None,
) -> Evaluation:
    """Play `episodes` whole episodes of the agent's task, or of `env`, with the seeds seed, seed + 1, ...

    The result depends on weights and seed alone: sampled actions come from the seed, and the state of the agent's own
    generator is restored afterwards. `on_step` gets every row; an exception from it ends the evaluation. ValueError if
    episodes is not positive.
    """
    with seeded(agent, seed):
        return play_episodes(agent, agent.config, episodes, seed, mode, mode, on_step, env)


def random_evaluation(config: Config, episodes: int, seed: int = 0, env: EnvSource | None = None) -> Evaluation:
    """Evaluate uniformly random actions, the baseline for any return."""
    with agent_env(config, env) as played:
        player = RandomPlayer(played.action_space, seed)
    return play_episodes(player, config, episodes, seed, "sample", "random", env=env)


@contextmanager
def seeded(agent: TrainedPlayer, seed: int) -> Iterator[None]:
    """Draw the agent's actions from `seed` inside the block, and restore its generator after it.

    ValueError if `agent` is none.
    """
    if not hasattr(agent, "generators"):
        raise ValueError(f"agent: got {type(agent).__name__}, expected an Agent; agent.load(path) loads one")
    generator = agent.generators["act"]
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def agent_env(config: Config, env: EnvSource | None = None) -> Iterator[PixelEnv]:
    """Yield the env of the run's config, or `env`: an environment, a task, or a function that makes one.

    Its episodes are truncated at the config's bound. It is closed at the end, unless it was given as an object; a close
    that fails is a warning. ValueError if it has no frames, or frames of another size than the agent's.
    """
    is_theirs = isinstance(env, Env)
    if callable(env) and not is_theirs:
        env = env()
    if env is None or isinstance(env, str):
        played = _made(config, env)
    elif isinstance(env, PixelEnv):
        played = env
    else:
        settings = config.env
        played = GymPixels(env, action_repeat=settings.action_repeat, size=settings.size, vector=settings.vector)
    before, played.max_steps = played.max_steps, config.env.max_steps
    try:
        if played.size != config.env.size:
            raise ValueError(f"env: got frames of {played.size} pixels, expected {config.env.size}")
        yield played
    finally:
        played.max_steps = before
        if not is_theirs:
            close_env(played)


def _made(config: Config, task: str | None) -> PixelEnv:
    try:
        return make_env(config.task if task is None else task, **config.env.options())
    except ValueError as error:
        hint = "; in Python env= takes an environment object" if config.task.startswith(GYM_PREFIX) else ""
        raise ValueError(f"{error}{hint}") from None


def play_episodes(
    player: Player,
    config: Config,
    episodes: int,
    seed: int,
    mode: Mode,
    label: str,
    on_step: Callable[[Step], None] | None = None,
    env: EnvSource | None = None,
) -> Evaluation:
    """Play whole episodes with the seeds seed, seed + 1, ...; `label` becomes the result's `mode`."""
    if episodes < 1:
        raise ValueError(f"episodes: got {episodes}, expected a positive number")
    seeds = tuple(range(seed, seed + episodes))
    with agent_env(config, env) as played:
        results = [play_episode(player, played, s, mode, on_step) for s in seeds]
    returns, lengths = tuple(r.total for r in results), tuple(r.length for r in results)
    repeat = played.action_repeat
    return Evaluation(
        **asdict(summarize(returns)),
        task=config.task if env is None else played.task,
        mode=label,
        action_repeat=repeat,
        render=config.env.render if env is None else played.render_profile,
        seeds=seeds,
        returns=returns,
        lengths=lengths,
        env_frames=tuple(repeat * length for length in lengths),
        is_cut=tuple(r.is_cut for r in results),
    )


def decision_ms(agent: TrainedPlayer, repeats: int = 10) -> float:
    """Return the milliseconds that a decision takes for one environment, the median of some."""
    images, vector_dim = np.zeros((1, *agent.config.env.image_shape), np.uint8), agent.config.world_model.vector_dim
    vectors = None if vector_dim is None else np.zeros((1, vector_dim), np.float32)
    is_first, memory = np.ones(1, bool), agent.initial_state(1)
    seconds = []
    with seeded(agent, 0):
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            agent.act(images, is_first, memory, "deterministic", vectors)
            seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds[1:])  # the first one warms up


def cut_line(config: Config, is_cut: Sequence[bool]) -> str | None:
    """Return one line about episodes that did not end, or None if all did."""
    if not any(is_cut):
        return None
    bound = f"cut off after {config.env.max_episode_frames:,} env_frames (env.max_episode_frames)"
    return f"{sum(is_cut)} of {len(is_cut)} episodes did not end: {bound}"
