"""From the ticks of a Stable-Baselines3 VecEnv, which resets at once, to rows of replay and updates that are due."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agent.learning.agent import Agent
from agent.learning.frames import SIZE, to_images
from agent.run_folder.storage import capacity_rows, check_room
from agent.stable_baselines.envs import Actions
from agent.training.due_work import can_update, update_ratio, why_no_update
from envs import Step
from replay import Chunk, ReplayBuffer, check_budget, row_bytes
from replay.entries import pack_rows, unpack_rows

logger = logging.getLogger(__name__)


class Rollout:
    """Chooses the actions of N environments, keeps every frame as a row, and says how many updates are due.

    A tick is `act`, the VecEnv's step, then `keep`. VecEnvs hand the last frame of an episode over beside the first one
    of the next; here it is a row of its own, so an episode of L decisions is L + 1 rows. One environment of a VecEnv
    cannot be reset: an episode longer than its share of the replay goes on, and is kept as several, the last frame of
    each, marked as truncated, the first frame of the next.

    Raises:
        ValueError: the replay has no room for a chunk, or for two rows of every environment.
        ReplayBudgetError: the replay buffer does not fit into memory.
    """

    def __init__(self, agent: Agent, actions: Actions, num_envs: int) -> None:
        self._agent, self._actions, self._num_envs = agent, actions, num_envs
        row, rows = row_bytes((SIZE, SIZE, 3), actions.dim), capacity_rows(agent.config, actions.dim)
        check_room(rows, num_envs)
        check_budget(rows * row, None, None, "replay.capacity_steps", unit_bytes=row)
        self.replay = ReplayBuffer(
            rows,
            action_dim=actions.dim,
            num_envs=num_envs,
            seed=agent.config.seed,
            pin_memory=agent.device.type == "cuda",
        )
        self._ratio = update_ratio(agent.config)
        self._random = np.random.default_rng(agent.config.seed)
        self._agent_steps, self._updates_before = 0, agent.updates
        self._reported: set[str] = set()  # lines that come once
        self._memory = agent.initial_state(num_envs)
        self.restart()

    def restart(self) -> None:
        """The environments begin anew: episodes that were under way end here, cut off."""
        self.replay.finish_partial()
        self.is_stepping = False  # between `act` and `keep`: left so where the step was interrupted
        self._starts, self._rewards = np.ones(self._num_envs, bool), np.zeros(self._num_envs, np.float32)

    def act(self, observations: Any) -> NDArray[Any]:
        """Actions [N, ...] in the environment's space for its observations: random ones before the first update."""
        images, _ = to_images(observations)
        self._cut_long_episodes(images)
        if self._agent.updates == 0:
            actions = self._actions.random(self._random, self._num_envs)
        else:
            actions, self._memory = self._agent.act(images, self._starts, self._memory, "collect")
        none = np.zeros(self._num_envs, bool)
        self.replay.add(Step(images, self._rewards, self._starts, none, none, actions))
        self.is_stepping = True
        return self._actions.to_env(actions)

    def keep(self, rewards: NDArray[Any], dones: NDArray[Any], infos: list[dict[str, Any]]) -> None:
        """What the step brought: rewards wait for their frames, which are here where an episode has ended."""
        dones, rewards = np.array(dones, bool), np.array(rewards, np.float32)
        ended = np.flatnonzero(dones)
        if len(ended):
            images, _ = to_images(np.stack([infos[i]["terminal_observation"] for i in ended]))
            cut = np.array([infos[i].get("TimeLimit.truncated", False) for i in ended])
            self._end(images, rewards[ended], ~cut, ended)
        self._starts, self._rewards = dones, np.where(dones, np.float32(0), rewards)
        self._agent_steps += self._num_envs
        self.is_stepping = False

    def _cut_long_episodes(self, images: NDArray[np.uint8]) -> None:
        """End the kept episodes that have room for one more row: this frame is their last, and the next one's first."""
        full = np.flatnonzero(self.replay.num_running == self.replay.longest - 1)
        if len(full) == 0:
            return
        self._end(images[full], self._rewards[full], np.zeros(len(full), bool), full)
        self._starts[full], self._rewards[full] = True, 0.0
        share = f"their share of replay.capacity_steps, {self.replay.longest:,} rows"
        self._warn_once(f"episodes are cut off in the replay, as truncated, at {share}; said once")

    def _end(
        self, images: NDArray[np.uint8], rewards: NDArray[np.float32], is_terminal: NDArray[Any], envs: NDArray[Any]
    ) -> None:
        """Add the last rows of the episodes of `envs`, each field [len(envs), ...]."""
        count = len(envs)
        flags = np.zeros(count, bool), np.ones(count, bool), is_terminal
        actions = np.zeros((count, self._actions.dim), np.float32)
        self.replay.add(Step(images, rewards, *flags, actions), envs.tolist())

    def due(self) -> int:
        """Updates that have become due; none before the prefill and the first rows that fill a chunk."""
        if not can_update(self._agent.config, self._agent_steps, self.replay):
            self._ratio.skip(self._agent_steps)
            return 0
        return self._ratio(self._agent_steps)

    def state_dict(self) -> dict[str, Any]:
        """The replay's episodes, those under way as cut off, and how many timesteps have filled it."""
        return {
            "agent_steps": self._agent_steps,
            "episodes": [pack_rows(episode) for episode in self.replay.episodes()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over `state_dict` while there are no rows yet. ValueError for episodes of other actions, or too long."""
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
        """Say, once a reason, why the timesteps so far have brought no update."""
        if self._agent.updates == self._updates_before:
            self._warn_once(why_no_update(self._agent.config, self._agent_steps, self.replay))

    def _warn_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            logger.warning("%s", line)

    def sample(self) -> Chunk:
        """A chunk for one update."""
        settings = self._agent.config.replay
        return self.replay.sample(settings.batch_size, settings.batch_length)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, torch uses `count` CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
