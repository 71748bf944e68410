"""Rows of replay and due updates from the steps of a Stable-Baselines3 VecEnv, which resets automatically."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agent.learning.agent import Agent
from agent.learning.frames import to_observation
from agent.run_folder.storage import capacity_rows, check_room, run_row_bytes
from agent.stable_baselines.envs import Actions
from agent.training.due_work import can_update, update_ratio, why_no_update
from envs import Step
from replay import Chunk, ReplayBuffer, check_budget
from replay.entries import pack_rows, unpack_rows

Seen = tuple[NDArray[np.uint8], NDArray[np.float32] | None]  # images and vectors of N environments

logger = logging.getLogger(__name__)


class Rollout:
    """The collection of N environments: chooses actions, keeps every frame as a row, and counts due updates.

    A tick is `act`, the VecEnv's step, then `keep`. VecEnvs return the last frame of an episode together with the first
    one of the next; here it is a row of its own, so an episode of L decisions has L + 1 rows. A single environment of a
    VecEnv cannot be reset: an episode longer than its share of the replay continues, but is stored as several, each
    truncated at a frame that is also the first one of the next.

    Raises:
        ValueError: the replay has no room for a chunk, or for two rows of every environment.
        ReplayBudgetError: the replay buffer does not fit into memory.
    """

    def __init__(self, agent: Agent, actions: Actions, num_envs: int) -> None:
        self._agent, self._actions, self._num_envs = agent, actions, num_envs
        row, rows = run_row_bytes(agent.config, actions.dim), capacity_rows(agent.config, actions.dim)
        check_room(rows, num_envs)
        check_budget(rows * row, None, None, "replay.capacity_steps", unit_bytes=row)
        self.replay = ReplayBuffer(
            rows,
            image_shape=agent.config.env.image_shape,
            action_dim=actions.dim,
            num_envs=num_envs,
            seed=agent.config.seed,
            pin_memory=agent.device.type == "cuda",
            recency=agent.config.replay.recency,
            vector_dim=agent.config.world_model.vector_dim,
        )
        self._ratio = update_ratio(agent.config)
        self._random = np.random.default_rng(agent.config.seed)
        self._agent_steps, self._updates_before = 0, agent.updates
        self._reported: set[str] = set()  # warnings that were given already
        self._memory = agent.initial_state(num_envs)
        self.restart()

    def restart(self) -> None:
        """Begin new episodes; those in progress are truncated."""
        self.replay.finish_partial()
        self.is_stepping = False  # True between `act` and `keep`, and after an interrupted step
        self._starts, self._rewards = np.ones(self._num_envs, bool), np.zeros(self._num_envs, np.float32)

    def act(self, observations: Any) -> NDArray[Any]:
        """Choose actions [N, ...] in the environment's space; random ones before the first update."""
        seen = self._see(observations)
        images, vectors = seen
        self._cut_long_episodes(seen)
        if self._agent.updates == 0:
            actions = self._actions.random(self._random, self._num_envs)
        else:
            actions, self._memory = self._agent.act(images, self._starts, self._memory, "collect", vectors)
        none = np.zeros(self._num_envs, bool)
        self.replay.add(Step(images, self._rewards, self._starts, none, none, actions, vectors))
        self.is_stepping = True
        return self._actions.to_env(actions)

    def keep(self, rewards: NDArray[Any], dones: NDArray[Any], infos: list[dict[str, Any]]) -> None:
        """Take a step's results: rewards wait for their frames, except the last frames of ended episodes."""
        dones, rewards = np.array(dones, bool), np.array(rewards, np.float32)
        ended = np.flatnonzero(dones)
        if len(ended):
            last = [infos[i]["terminal_observation"] for i in ended]
            is_dict = isinstance(last[0], Mapping)
            stacked = {name: np.stack([x[name] for x in last]) for name in last[0]} if is_dict else np.stack(last)
            cut = np.array([infos[i].get("TimeLimit.truncated", False) for i in ended])
            self._end(self._see(stacked), rewards[ended], ~cut, ended)
        self._starts, self._rewards = dones, np.where(dones, np.float32(0), rewards)
        self._agent_steps += self._num_envs
        self.is_stepping = False

    def _see(self, observations: Any) -> Seen:
        """Return the images and the vectors of a batch of observations."""
        config = self._agent.config
        return to_observation(observations, config.env.size, config.world_model.vector_dim)[:2]

    def _cut_long_episodes(self, seen: Seen) -> None:
        """Truncate the episodes with room for only one more row: this frame ends them and begins the next ones."""
        full = np.flatnonzero(self.replay.num_running == self.replay.longest - 1)
        if len(full) == 0:
            return
        images, vectors = seen
        part = images[full], None if vectors is None else vectors[full]
        self._end(part, self._rewards[full], np.zeros(len(full), bool), full)
        self._starts[full], self._rewards[full] = True, 0.0
        share = f"their share of replay.capacity_steps, {self.replay.longest:,} rows"
        self._warn_once(f"episodes in the replay are truncated at {share} (shown once)")

    def _end(self, seen: Seen, rewards: NDArray[np.float32], is_terminal: NDArray[Any], envs: NDArray[Any]) -> None:
        """Add the last rows of the episodes of `envs`, each field [len(envs), ...]."""
        count = len(envs)
        flags = np.zeros(count, bool), np.ones(count, bool), is_terminal
        actions = np.zeros((count, self._actions.dim), np.float32)
        images, vectors = seen
        self.replay.add(Step(images, rewards, *flags, actions, vectors), envs.tolist())

    def due(self) -> int:
        """Return the number of due updates; none before the prefill is over and a chunk can be sampled."""
        config = self._agent.config
        if not can_update(config, self._agent_steps, self.replay.can_sample(config.replay.sample_length)):
            self._ratio.skip(self._agent_steps)
            return 0
        return self._ratio(self._agent_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the replay's episodes, those in progress as truncated, and the number of timesteps."""
        return {
            "agent_steps": self._agent_steps,
            "episodes": [pack_rows(episode) for episode in self.replay.episodes()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict` into an empty replay. ValueError for episodes of other actions, or too long ones."""
        for index, packed in enumerate(state["episodes"]):
            try:
                episode = unpack_rows(packed, self.replay.num_bytes)
                if episode is None:
                    raise ValueError("got no rows, expected an episode")
                self.replay.add_episode(episode)
            except ValueError as error:
                raise ValueError(f"episodes[{index}]: {error}") from None
        self._agent_steps = state["agent_steps"]
        self._ratio.skip(self._agent_steps)

    def warn_if_untrained(self) -> None:
        """Warn, once per reason, if the timesteps so far have led to no update."""
        if self._agent.updates == self._updates_before:
            self._warn_once(why_no_update(self._agent.config, self._agent_steps, self.replay))

    def _warn_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            logger.warning("%s", line)

    def sample(self) -> Chunk:
        """Sample a chunk for one update."""
        settings = self._agent.config.replay
        return self.replay.sample(settings.batch_size, settings.sample_length)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` CPU threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
