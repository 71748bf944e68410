"""Playing whole episodes: one loop for evaluation and recording, and the figures that come of it."""

import math
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
from agent.learning.frames import SIZE
from envs import GymPixels, Step, make_env
from envs.driver import EnvironmentFailure
from envs.pixels import IS_CUT, PixelEnv
from envs.spaces import OneHot, random_actions
from envs.tasks import GYM_PREFIX
from envs.wording import told
from envs.workers import close_env

EnvSource = str | Env[Any, Any] | Callable[[], Env[Any, Any]]  # a task, an environment, or what makes one


class Player(Protocol):
    """What chooses actions: an Agent, or uniform chance."""

    def initial_state(self, num_envs: int) -> Any:
        """Memory before the first frame."""

    def act(
        self, images: NDArray[np.uint8], is_first: NDArray[np.bool_], state: Any, mode: Mode
    ) -> tuple[NDArray[np.float32], Any]:
        """Actions [N, A] for images [N, 64, 64, 3], and the next memory."""


class TrainedPlayer(Player, Protocol):
    """What a run holds: an Agent or a baseline. Its sampled actions are drawn from generators["act"] alone."""

    @property
    def config(self) -> Config:
        """The run's settings."""

    @property
    def updates(self) -> int:
        """Gradient steps so far."""

    @property
    def generators(self) -> dict[str, Generator]:
        """Sources of randomness by their names."""


class RandomPlayer:
    """Uniformly random actions of an environment's space, whatever the frames show."""

    def __init__(self, space: Space[Any], seed: int) -> None:
        assert space.shape is not None
        self._action_dim, self._is_discrete = space.shape[0], isinstance(space, OneHot)
        self._random = np.random.default_rng(seed)

    def initial_state(self, num_envs: int) -> None:
        """Chance has no memory."""

    def act(
        self, images: NDArray[np.uint8], is_first: NDArray[np.bool_], state: None, mode: Mode
    ) -> tuple[NDArray[np.float32], None]:
        """Actions [N, A], uniform in [-1, 1], or one-hot vectors."""
        return random_actions(len(images), self._action_dim, self._is_discrete, self._random), None


class EpisodeResult(NamedTuple):
    """One episode: the sum of its rewards, its length in agent_steps, whether it was cut off at the env's max_steps."""

    total: float
    length: int
    is_cut: bool = False


@dataclass(frozen=True)
class Evaluation(Summary):
    """Whole episodes, and the figures of their returns."""

    task: str
    mode: str
    action_repeat: int
    render: str
    seeds: tuple[int, ...]
    returns: tuple[float, ...]
    lengths: tuple[int, ...]  # agent_steps
    env_frames: tuple[int, ...]
    is_cut: tuple[bool, ...] = ()  # whether each one did not end, but was cut off at env.max_episode_frames

    def to_json(self) -> dict[str, Any]:
        """Every field as json.dump takes it; null where a number is not defined."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def episode_rows(
    player: Player,
    env: Env[NDArray[np.uint8], NDArray[np.float32]],
    seed: int,
    mode: Mode = "deterministic",
    max_steps: int | None = None,
) -> Iterator[tuple[Step, EpisodeResult]]:
    """Play one episode of one env from `seed` to its end, or to `max_steps` decisions, row by row.

    Yields every row with N = 1, the last frame with its zero action included, and the result so far, before the env
    moves on: so env.render_frame() shows the very state that the row's image shows. EnvironmentFailure where the env
    raises.
    """
    with reported():
        image, _ = env.reset(seed=seed)
    state, reward, result = player.initial_state(1), 0.0, EpisodeResult(0.0, 0)
    is_terminal = is_last = False
    while True:
        is_first = np.array([result.length == 0])
        action, state = player.act(image[None], is_first, state, mode)
        executed = np.zeros_like(action) if is_last else action
        flags = np.array([is_last]), np.array([is_terminal])
        yield Step(image[None], np.array([reward], np.float32), is_first, *flags, executed), result
        if is_last or result.length == max_steps:
            return
        with reported():
            image, gained, is_terminal, is_truncated, info = env.step(action[0])
        reward, is_last = float(gained), is_terminal or is_truncated
        result = EpisodeResult(result.total + reward, result.length + 1, info.get(IS_CUT, False))


@contextmanager
def reported() -> Iterator[None]:
    """Whatever an environment raises inside becomes an EnvironmentFailure in one line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise EnvironmentFailure(f"the environment failed ({told(error)})") from error


def play_episode(
    player: Player,
    env: Env[NDArray[np.uint8], NDArray[np.float32]],
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

    The result depends on weights and seed alone: sampled actions come from the seed, and the agent's own randomness
    goes on afterwards as if nothing had been played. `on_step` gets every row; what it raises ends the evaluation.
    ValueError where episodes is not positive.
    """
    with seeded(agent, seed):
        return play_episodes(agent, agent.config, episodes, seed, mode, mode, on_step, env)


def random_evaluation(config: Config, episodes: int, seed: int = 0, env: EnvSource | None = None) -> Evaluation:
    """The same for uniformly random actions: what a return is worth."""
    with agent_env(config, env) as played:
        player = RandomPlayer(played.action_space, seed)
    return play_episodes(player, config, episodes, seed, "sample", "random", env=env)


@contextmanager
def seeded(agent: TrainedPlayer, seed: int) -> Iterator[None]:
    """Inside, the agent's acting draws from `seed`; afterwards from where it was. ValueError where it is no agent."""
    if not hasattr(agent, "generators"):
        raise ValueError(f"agent: got {type(agent).__name__}, expected an Agent; agent.load(path) makes one of a file")
    generator = agent.generators["act"]
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


@contextmanager
def agent_env(config: Config, env: EnvSource | None = None) -> Iterator[PixelEnv]:
    """One env as the run's config says, or the one that is given, a task, or what makes one.

    Its episodes end at the config's bound at the latest. It is closed at the end, and a close that fails is a warning;
    an environment object stays open. ValueError where there is nothing to see, or frames of another size than the
    agent's.
    """
    is_theirs = isinstance(env, Env)
    if callable(env) and not is_theirs:
        env = env()
    if env is None or isinstance(env, str):
        played = _made(config, env)
    elif isinstance(env, PixelEnv):
        played = env
    else:
        played = GymPixels(env, action_repeat=config.env.action_repeat)
    before, played.max_steps = played.max_steps, config.env.max_steps
    try:
        if played.size != SIZE:
            raise ValueError(f"env: got frames of {played.size} pixels, expected {SIZE}")
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
    """Whole episodes of the config's task, or of `env`, with the seeds seed, seed + 1, ...; `label` is the `mode`."""
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


def cut_line(config: Config, is_cut: Sequence[bool]) -> str | None:
    """One line about episodes that did not end, None where all did."""
    if not any(is_cut):
        return None
    bound = f"cut off after {config.env.max_episode_frames:,} env_frames (env.max_episode_frames)"
    return f"{sum(is_cut)} of {len(is_cut)} episodes did not end: {bound}"
