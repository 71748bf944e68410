"""Collection of experience: environments, the policy that plays them, and rows for the replay."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from agent.config.settings import Config
from agent.learning.agent import Agent
from agent.run_folder.storage import episode_bound
from agent.training.ranks import Ranks
from agent.training.screen import outlast_screen
from envs import Driver, Step, make_vector_env
from envs.driver import EnvironmentFailure, episode_starts
from envs.pixels import EpisodeStart
from envs.spaces import random_actions, vector_dim_of
from envs.workers import close_vector_env
from world_model.state import Memory


class NoEnvironment:
    """What a run that steps no environment has in place of a driver: the actions of its episodes, and nothing to do."""

    def __init__(self, num_envs: int, action_dim: int, is_discrete: bool, vector_dim: int | None) -> None:
        self.num_envs, self.action_dim, self.is_discrete = num_envs, action_dim, is_discrete
        self.vector_dim = vector_dim
        self.restarts, self.is_at_start = 0, True
        self.cut: tuple[int, ...] = ()
        self.at_bound: tuple[int, ...] = ()

    def state_dict(self) -> None:
        """Return None: there is no position to continue from."""

    def close(self) -> None:
        """Return at once."""


class Rows(Protocol):
    """What a collector writes to: a ReplayBuffer, or what gathers the episodes for one elsewhere."""

    def add(self, step: Step) -> None:
        """Add one tick of all environments."""

    def finish_partial(self, envs: Sequence[int]) -> int:
        """Truncate the running episodes of `envs` and drop single rows."""

    def can_sample(self, length: int) -> bool:
        """Return whether there are `length` rows to learn from."""


class Collector:
    """The player of a run's task: random actions until the first update, then the agent's with exploration.

    Args:
        config: settings of the run.
        state: a collector's `state_dict`, from which the environments continue. If their number has changed, the
            episodes in progress are dropped and new ones begin. That of a RemoteCollector has none.
        ranks: those that collect for the same run; counters are sums over all of them.
        unplayed: stands for the environments of a run that steps none.
    """

    def __init__(
        self,
        config: Config,
        state: dict[str, Any] | None = None,
        ranks: Ranks | None = None,
        unplayed: NoEnvironment | None = None,
    ) -> None:
        self.config = config
        self.ranks = Ranks() if ranks is None else ranks
        self.env_frames = self.agent_steps = 0
        self.cut = self.restarts = 0  # episodes that the last row cut off, and restarts of environments so far
        self.can_sample = False  # whether there is a chunk in the replay of every rank
        self.about: dict[str, float] = {}  # metrics of the episodes that the last row ended, beside their returns
        self.random = np.random.default_rng([config.seed, 1])
        self.returns = np.zeros(config.env.num_envs)
        self.memory: Memory | None = None
        self.driver: Driver | NoEnvironment
        if unplayed is not None:
            self.driver = unplayed
        else:
            self.driver = make_driver(config, None if state is None else state.get("driver"))
        self.bound = episode_bound(config.with_vector(self.vector_dim), self.driver.action_dim)

    @property
    def action_dim(self) -> int:
        """A, the size of an action."""
        return self.driver.action_dim

    @property
    def is_discrete(self) -> bool:
        """Whether actions are one-hot vectors."""
        return self.driver.is_discrete

    @property
    def vector_dim(self) -> int | None:
        """V, the width of the vector beside the frames, or None."""
        return self.driver.vector_dim

    @property
    def at_bound(self) -> bool:
        """Whether an episode was truncated at its bound with the last row."""
        return bool(self.driver.at_bound)

    def share(self, agent: Agent) -> None:
        """Send the weights to those who play elsewhere: here nobody does."""

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        self.driver.close()

    def collect(self, agent: Agent, replay: Rows) -> list[float]:
        """Add one row of every environment to the replay; return the returns of episodes that ended, on any rank."""
        assert not isinstance(self.driver, NoEnvironment)
        memory = self.memory if self.memory is not None else agent.initial_state(self.driver.num_envs)

        def policy(step: Step) -> NDArray[np.float32]:
            if agent.updates == 0:
                return random_actions(len(step.image), agent.action_dim, agent.is_discrete, self.random)
            actions, self.memory = agent.act(step.image, step.is_first, memory, "collect", step.vector)
            return actions

        with self.ranks.together():
            try:
                step = self.driver.tick(policy)
            except EnvironmentFailure:
                replay.finish_partial(self.driver.cut)
                raise
            replay.finish_partial(self.driver.cut)  # their next row begins another episode
            replay.add(step)
        self.returns = np.where(step.is_first, 0.0, self.returns + step.reward)
        return self._count(step, replay.can_sample(self.config.replay.sample_length))

    def _count(self, step: Step, can_sample: bool) -> list[float]:
        """Update the counters with the rows of all ranks; return the returns of their episodes that ended."""
        ended, driver = self.returns[step.is_last].tolist(), self.driver
        own = (int((~step.is_first).sum()), len(ended), can_sample, len(driver.cut), driver.restarts)
        decisions, num_ended, num_ready, self.cut, self.restarts = self.ranks.total(*own)
        self.agent_steps += decisions
        self.env_frames += decisions * self.config.env.action_repeat
        self.can_sample = num_ready == self.ranks.count
        return [value for values in self.ranks.gather(ended) for value in values] if num_ended else []

    def state_dict(self) -> dict[str, Any]:
        """Return counters, the policy's memory, random states and the episodes in progress, as tensors and values."""
        return {
            "env_frames": self.env_frames,
            "agent_steps": self.agent_steps,
            "driver": None if self.driver.is_at_start else pytree.tree_map(_as_tensor, self.driver.state_dict()),
            "random": self.random.bit_generator.state,
            "returns": self.returns.tolist(),
            "memory": None if self.memory is None else pytree.tree_leaves(self.memory),
        }

    def load_state_dict(self, state: dict[str, Any], agent: Agent) -> None:
        """Restore `state_dict`, whose environments the constructor has restored already."""
        self.env_frames, self.agent_steps = state["env_frames"], state["agent_steps"]
        if "driver" not in state:
            return
        self.random.bit_generator.state = state["random"]
        if len(state["returns"]) != self.driver.num_envs:
            return
        self.returns = np.array(state["returns"])
        if state["memory"] is not None:
            leaves, form = pytree.tree_flatten(agent.initial_state(self.driver.num_envs))
            pairs = zip(state["memory"], leaves, strict=True)  # None: state of a pillar that is off
            moved = [None if now is None else saved.to(now.device) for saved, now in pairs]
            self.memory = pytree.tree_unflatten(moved, form)


def make_driver(config: Config, state: dict[str, Any] | None = None) -> Driver:
    """Make environments at their first episode, or at the position of a driver's `state`."""
    make = partial(_make_envs, config)
    if state is None:
        return Driver(make(), remake=make)
    if len(state["episodes"]) == config.env.num_envs:
        return Driver(make(starts=episode_starts(state)), remake=make, state=state)
    first = max(state["episodes"]) + 1
    start = EpisodeStart(first, np.zeros((0, 1), np.float32))
    return Driver(make(starts=[start] * config.env.num_envs), remake=make, first_episode=first)


def _make_envs(config: Config, starts: Sequence[EpisodeStart] | None = None) -> SyncVectorEnv | AsyncVectorEnv:
    """Make the run's environments, whose episodes are bounded by their share of the replay."""
    envs = make_vector_env(
        config.task,
        config.env.num_envs,
        seed=config.seed,
        **config.env.options(),
        starts=starts,
        on_start=outlast_screen,
    )
    try:
        assert envs.single_action_space.shape is not None
        config = config.with_vector(vector_dim_of(envs.single_observation_space))
        envs.set_attr("max_steps", episode_bound(config, envs.single_action_space.shape[0]).steps)
    except BaseException:
        close_vector_env(envs)
        raise
    return envs


def _as_tensor(value: Any) -> Any:
    """Return numpy arrays as tensors, which a checkpoint may hold."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
