"""A player of episodes in a process of its own: environments, a copy of the agent, and episodes to be fetched."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agent.config.settings import Config
from agent.learning.agent import Agent
from agent.run_folder.weights import for_acting, use_weights, weights_of
from agent.training.collector import Collector
from envs import Step
from replay import episode_file
from replay.rows import Episode, cut_off, join

Arrays = Mapping[str, NDArray[Any]]


class Delivery(NamedTuple):
    """Finished episodes as the bytes of their files, and the restarts of environments since the last delivery."""

    files: list[bytes]
    restarts: int


def acting_weights(agent: Agent) -> dict[str, NDArray[Any]]:
    """Return copies of the weights that `Agent.act` collects with."""
    weights = for_acting(weights_of(agent, averaged=agent.config.optimizer.average_collects))
    return {name: value.numpy() for name, value in weights.items()}


class Player:
    """A collector with its own environments and agent, on the CPU, that keeps the episodes it has finished.

    Actions are random until weights have come, then the agent's with exploration. New weights count from the next row
    on. The methods may be called from two threads: `receive` while another one is in `play`.

    Args:
        config: settings of the run.
        index: number of this player.
        number: number of its next episode. With the index it decides what it draws, so that the player which continues
            in place of a lost one draws anew.
    """

    def __init__(self, config: Config, index: int, number: int) -> None:
        seed = int(np.random.SeedSequence((config.seed, index, number)).generate_state(1)[0])
        config = replace(config, seed=seed, device="cpu", compile=False, precision="float32")
        self._collector = Collector(config)
        config = config.with_vector(self._collector.vector_dim)
        self._agent = Agent(config, self._collector.action_dim, is_discrete=self._collector.is_discrete)
        self._gathered = _Gathered(config.env.num_envs, index, number)
        self._news: tuple[Arrays, int] = ({}, 0)
        self._restarts = 0

    def receive(self, weights: Arrays, updates: int) -> None:
        """Take weights with `updates` updates, unless there are newer ones."""
        if updates > self._news[1]:
            self._news = weights, updates

    def play(self, weights: Arrays, updates: int) -> Delivery:
        """Play with weights of so many updates, or newer ones, until episodes have finished; deliver these.

        EnvironmentFailure if an environment fails for good, NotFinite if actions are not finite.
        """
        self.receive(weights, updates)
        while not self._gathered.files:
            self._renew()
            self._collector.collect(self._agent, self._gathered)
        files, self._gathered.files = self._gathered.files, []
        restarts, self._restarts = self._collector.restarts - self._restarts, self._collector.restarts
        return Delivery(files, restarts)

    def _renew(self) -> None:
        weights, updates = self._news
        if updates > self._agent.updates:
            use_weights(self._agent, {name: torch.tensor(value) for name, value in weights.items()})
            self._agent.updates = updates
        self._gathered.updates = self._agent.updates


class _Gathered:
    """The rows of running episodes, and the finished ones as files with `collector`, `number` and `updates`.

    `updates` are those of the weights that an episode began with, its oldest.
    """

    def __init__(self, num_envs: int, index: int, number: int) -> None:
        self.files: list[bytes] = []
        self.updates = 0
        self._index, self._number = index, number
        self._rows: list[list[Episode]] = [[] for _ in range(num_envs)]
        self._began = [0] * num_envs

    def add(self, step: Step) -> None:
        """Add one tick of all environments."""
        for env, rows in enumerate(self._rows):
            if step.is_first[env]:
                self._began[env] = self.updates
            rows.append(join([step], lambda parts, env=env: parts[0][env]))  # type: ignore[misc]
            if step.is_last[env]:
                self._finish(env)

    def finish_partial(self, envs: Sequence[int]) -> int:
        """Truncate the running episodes of `envs`, drop single rows, and return the number truncated."""
        long = [env for env in envs if len(self._rows[env]) > 1]
        for env in envs:
            self._finish(env) if env in long else self._rows[env].clear()
        return len(long)

    def can_sample(self, _: int) -> bool:
        """Return False: nothing is learned from here."""
        return False

    def _finish(self, env: int) -> None:
        episode = cut_off(join(self._rows[env], np.stack))
        facts = {"collector": self._index, "number": self._number, "updates": self._began[env]}
        self.files.append(episode_file.encode(episode, facts))
        self._number += 1
        self._rows[env].clear()
